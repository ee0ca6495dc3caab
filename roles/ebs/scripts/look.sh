# Prints what a host has of EBS volumes; changes nothing. POSIX sh, run with sh -s.
# Arguments: ROOT (empty, but for tests), UNIT, then one mount point for each volume.
# Lines, tab-separated:
#   nvme NAME SERIAL MODEL        each NVMe namespace
#   mounted TARGET SOURCE         what is mounted exactly there
#   running                       the unit is active
#   verified VOLUME KEY           a line of /etc/strongbox/ebs-verified
root=$1; unit=$2; shift 2
trimmed() { sed 's/^[[:space:]]*//; s/[[:space:]]*$//' "$1"; }
for disk in "$root"/sys/block/nvme*; do
  [ -e "$disk/device/serial" ] || continue
  printf 'nvme\t%s\t%s\t%s\n' "${disk##*/}" \
    "$(trimmed "$disk/device/serial")" "$(trimmed "$disk/device/model")"
done
for target; do
  source=$(findmnt -rno SOURCE --mountpoint "$target" | tail -n 1)
  [ -z "$source" ] || printf 'mounted\t%s\t%s\n' "$target" "$source"
done
state=$(systemctl is-active "$unit" 2>/dev/null)
case $state in
  active|reloading|activating|deactivating) echo running ;;
esac
if [ -e "$root/etc/strongbox/ebs-verified" ]; then
  sed -nE 's/^(vol-[0-9a-f]+) (arn:[^ ]+)$/verified\t\1\t\2/p' "$root/etc/strongbox/ebs-verified"
fi
