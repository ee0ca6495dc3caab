# Unmounts an EBS volume, so that its snapshot is complete and it can be detached.
# Arguments: ROOT (empty, but for tests), MOUNT POINT, SERIAL that the disk there must have, UNIT that must be stopped.
set -eu
root=$1; target=$2; serial=$3; unit=$4
fail() { echo "$target: $*; nothing was unmounted" >&2; exit 1; }
exec 9>>"$root/run/strongbox-ebs.lock"; flock 9
! systemctl is-active --quiet "$unit" || fail "$unit runs"
source=$(findmnt -rno SOURCE --mountpoint "$target") || exit 0
name=${source#/dev/}
[ -e "$root/sys/block/$name/device/serial" ] || fail "$source is not an NVMe disk"
has=$(tr -d '[:space:]' <"$root/sys/block/$name/device/serial")
[ "$has" = "$serial" ] || fail "$source has the serial $has, expected $serial"
sync -f "$target"
umount "$target"
# Elsewhere too, such as a bind mount or a second mount by hand, writing must have ended.
if findmnt -rno TARGET --source "$source" >/dev/null || [ -n "$(ls "$root/sys/block/$name/holders")" ]
then
  echo "$source is still mounted or used elsewhere: see findmnt $source, then run again" >&2
  exit 1
fi
blockdev --flushbufs "$source"
