# Mounts the new EBS volume where the old one was.
# Arguments: ROOT (empty, but for tests), MOUNT POINT, SERIAL, FILE SYSTEM, UNIT that must be stopped.
set -eu
root=$1; target=$2; serial=$3; type=$4; unit=$5
fail() { echo "$target: $*; nothing was mounted" >&2; exit 1; }
exec 9>>"$root/run/strongbox-ebs.lock"; flock 9
! systemctl is-active --quiet "$unit" || fail "$unit runs"
name=
for disk in "$root"/sys/block/nvme*; do
  [ -e "$disk/device/serial" ] || continue
  [ "$(tr -d '[:space:]' <"$disk/device/serial")" != "$serial" ] || name=${disk##*/}
done
[ -n "$name" ] || fail "no NVMe disk has the serial $serial"
if source=$(findmnt -rno SOURCE --mountpoint "$target"); then
  # systemd may have done it, when the disk came.
  [ "$source" != "/dev/$name" ] || exit 0
  fail "$source is mounted there already"
fi
has=$(blkid -p -o value -s TYPE "/dev/$name") || fail "/dev/$name has no file system"
[ "$has" = "$type" ] || fail "/dev/$name has $has, expected $type"
mount -t "$type" -o noatime,nodev,nosuid,noexec "/dev/$name" "$target"
