# mkfs.sh DEVICE UUID LABEL MAPPING FSTYPE FSUUID: makes the file system of a volume that was just
# formatted. Of an EBS volume, MAPPING and LABEL are `-`, the disk must be empty, and the file system
# gets the UUID; on LUKS, which has that UUID itself, FSUUID is `-` and it gets one at random.
set -eu
device=$1 uuid=$2 label=$3 mapping=$4 type=$5 fsuuid=$6
lock "$device" "$device"
real=$(readlink -f -- "$device")
if [ "$mapping" = - ]; then
    seen=$(look_device "$device" 4096)
    hasno unknown absent child holder mounted swap listed probe signature mark
    has 'exclusive yes' && has 'read-only 0' && has 'blkid 2' && has 'head-zero yes' &&
        has 'tail-zero yes' || die "$device: it is not empty; no file system made"
    target=$real
else
    seen=$(probe "$real" '')
    has 'probe TYPE=crypto_LUKS' && has "probe UUID=$uuid" && has "probe LABEL=$label" ||
        die "$device: it is not a volume that is being set up; no file system made"
    opened=$(mapping_kernel "$mapping")
    [ -n "$opened" ] || die "$device: /dev/mapper/$mapping is not open; no file system made"
    case $(cat "/sys/class/block/$opened/dm/uuid") in
        CRYPT-LUKS2-"$(printf %s "$uuid" | tr -d -)"-*) ;;
        *) die "$device: /dev/mapper/$mapping is another volume; no file system made" ;;
    esac
    [ -z "$(mounts_of "$opened")" ] || die "$device: /dev/mapper/$mapping is mounted"
    target=/dev/$opened
fi
# mkfs.ext4 refuses nothing when nobody is at a terminal, so what is there is looked at right here.
seen=$(probe "$target" ''; signatures "$target"; exclusive "$target")
hasno unknown probe signature
has 'blkid 2' && has 'exclusive yes' || die "$target: it is not empty; no file system made"
case $type in
    xfs) if [ "$fsuuid" = - ]; then mkfs.xfs -q "$target"
        else mkfs.xfs -q -m "uuid=$fsuuid" "$target"; fi ;;
    ext4) if [ "$fsuuid" = - ]; then mkfs.ext4 -q "$target"
        else mkfs.ext4 -q -U "$fsuuid" "$target"; fi ;;
    *) die "mkfs.sh: $type?" ;;
esac || gone "$real" "$device" "making its file system"
sync "$target"
