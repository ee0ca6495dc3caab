# close.sh DEVICE UUID LABEL MAPPING: closes a volume that an interrupted run left open and that was
# never mounted, as its label says.
set -eu
lock "$1" "$1"
real=$(readlink -f -- "$1")
seen=$(probe "$real" '')
has "probe UUID=$2" && has "probe LABEL=$3" || die "$1: it is not a volume that is being set up"
opened=$(mapping_kernel "$4")
[ -n "$opened" ] || exit 0
[ -z "$(mounts_of "$opened")" ] || die "$1: /dev/mapper/$4 is mounted; not closed"
cryptsetup close -- "$4" || gone "$real" "$1" "closing it"
