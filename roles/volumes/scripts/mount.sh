# mount.sh NAME MAPPING|DEVICE MOUNT FSTYPE: mounts a volume; mounted already, it gets the options.
set -eu
name=$1 source=$2 mount=$3 type=$4
options=noatime,nodev,nosuid,noexec
real=$(readlink -f -- "$source")
[ -b "$real" ] || die "volume $name: $source is not there"
seen=$(look_mount "$mount")
case $seen in
    "mount-point mounted ${real#/dev/} "*)
        mount -o "remount,$options" "$mount" || die "volume $name: cannot change its mount options"
        exit 0 ;;
    'mount-point absent') mkdir -p -m 755 -- "$mount" ;;
    'mount-point empty') ;;
    *) die "volume $name: not mounted on $mount: $seen" ;;
esac
seen=$(probe "$real" '')
has "probe TYPE=$type" || die "volume $name: it holds no $type; not mounted"
# Whatever is written here without the volume would lie unencrypted on the root disk: nothing is, by
# root either, where the file system below knows the flag.
[ "$(stat -c %a "$mount")" = 0 ] || chmod 0 "$mount"
chattr +i "$mount" 2>/dev/null || :
mount -t "$type" -o "$options" -- "$real" "$mount" || die "volume $name: mount failed; see dmesg"
