# Names the new EBS volume wherever the host names the old one: in the start guard's list, and in what
# mounts it at boot, if that is by the disk's serial. Run again, it finds nothing to change.
# Arguments: ROOT (empty, but for tests), MOUNT POINT, NEW SERIAL, OLD SERIAL.
set -eu
root=$1; target=$2; serial=$3; old=$4
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
