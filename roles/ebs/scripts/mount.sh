# Mounts the new EBS volume where the old one was.
# Arguments: ROOT (empty, but for tests), MOUNT POINT, NEW SERIAL, OLD SERIAL, FILE SYSTEM, UNIT that must be stopped.
set -eu
root=$1; target=$2; serial=$3; old=$4; type=$5; unit=$6
fail() { echo "$target: $*; nothing was mounted" >&2; exit 1; }
exec 9>>"$root/run/strongbox-ebs.lock"; flock 9
! systemctl is-active --quiet "$unit" || fail "$unit runs"
! findmnt -rn --mountpoint "$target" >/dev/null || fail "something is mounted there already"
name=
for disk in "$root"/sys/block/nvme*; do
  [ -e "$disk/device/serial" ] || continue
  [ "$(tr -d '[:space:]' <"$disk/device/serial")" != "$serial" ] || name=${disk##*/}
done
[ -n "$name" ] || fail "no NVMe disk has the serial $serial"
has=$(blkid -p -o value -s TYPE "/dev/$name") || fail "/dev/$name has no file system"
[ "$has" = "$type" ] || fail "/dev/$name has $has, expected $type"
# The start guard's list names the volume; what mounts it at boot may name the disk by its serial.
link=nvme-Amazon_Elastic_Block_Store_
id() { echo "vol-${1#vol}"; }
for file in "$root/etc/strongbox/volumes" "$root/etc/fstab" "$root"/etc/systemd/system/*.mount; do
  [ -f "$file" ] && grep -qE "$link$old|^ebs $target $(id "$old")\$" "$file" || continue
  sed "s|$link$old|$link$serial|g; s|^ebs $target $(id "$old")\$|ebs $target $(id "$serial")|" \
    "$file" >"$file.strongbox-new"
  chmod 644 "$file.strongbox-new"; sync "$file.strongbox-new"
  mv -fT "$file.strongbox-new" "$file"
done
systemctl daemon-reload
mount -t "$type" -o noatime,nodev,nosuid,noexec "/dev/$name" "$target"
