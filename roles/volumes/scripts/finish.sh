# finish.sh DEVICE UUID LABEL MAPPING FSTYPE: notes in the header that the volume has its file system,
# so that it is never formatted again. Done before it is mounted: what may hold data has this label.
set -eu
lock "$1" "$1"
real=$(readlink -f -- "$1")
seen=$(probe "$real" '')
has 'probe TYPE=crypto_LUKS' && has "probe UUID=$2" || die "$1: it is not this volume"
opened=$(mapping_kernel "$4")
[ -n "$opened" ] || die "$1: /dev/mapper/$4 is not open"
case $(cat "/sys/class/block/$opened/dm/uuid") in
    CRYPT-LUKS2-"$(printf %s "$2" | tr -d -)"-*) ;;
    *) die "$1: /dev/mapper/$4 is another volume" ;;
esac
[ -e "/sys/class/block/$opened/slaves/$(kernel_name "$real")" ] ||
    die "$1: /dev/mapper/$4 is open on another disk"
seen=$(probe "/dev/$opened" '')
has "probe TYPE=$5" || die "$1: /dev/mapper/$4 holds no $5"
sync "/dev/$opened"
cryptsetup config --label "$3" -- "$real" || gone "$real" "$1" "labelling it"
