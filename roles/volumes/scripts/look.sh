# look.sh NAME DEVICE MAPPING MOUNT ...: all about declared volumes; writes to no device.
set -eu
if [ -r /etc/strongbox/ebs-verified ]; then
    case $(stat -c '%U %a' /etc/strongbox/ebs-verified) in
        'root 600' | 'root 640' | 'root 644' | 'root 400' | 'root 440' | 'root 444')
            sed -nE 's/^(vol-[0-9a-f]+) .*/verified \1/p' /etc/strongbox/ebs-verified ;;
    esac
fi
for file in /etc/fstab /etc/crypttab; do
    [ ! -r "$file" ] || sed -n "/^$BLOCK_BEGIN\$/,/^$BLOCK_END\$/p" "$file" |
        sed "/^$BLOCK_BEGIN\$/d; /^$BLOCK_END\$/d; s|^|block $file |"
done
while [ $# -ge 4 ]; do
    say volume "$1"
    look_device "$2" 1024
    look_mapping "$3"
    ! fields /etc/crypttab 1 | grep -qxF -- "$3" || say conflict /etc/crypttab
    look_mount "$4"
    shift 4
done
