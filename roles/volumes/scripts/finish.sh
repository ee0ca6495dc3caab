# finish.sh DEVICE UUID LABEL MOUNT MAPPING: notes in the header that the volume was mounted, so that
# it is never formatted again.
set -eu
lock "$1" "$1"
real=$(readlink -f -- "$1")
seen=$(probe "$real" '')
has "probe UUID=$2" || die "$1: it is not this volume"
case $(look_mount "$4") in
    "mount-point mounted $(mapping_kernel "$5") "*) ;;
    *) die "$1: it is not mounted on $4" ;;
esac
sync -f "$4"
cryptsetup config --label "$3" -- "$real" || gone "$real" "$1" "labelling it"
