# Waits until the host has the NVMe disk with that serial, as udev sees it a moment after AWS says
# "attached". Arguments: ROOT (empty, but for tests), SERIAL, SECONDS.
root=$1; serial=$2; left=$3
until grep -qsE "^$serial *\$" "$root"/sys/block/nvme*/device/serial; do
  left=$((left - 1))
  if [ "$left" -lt 0 ]; then
    echo "no NVMe disk with the serial $serial came within $3 s: is ebs_instance this host's, and" \
      "of a Nitro type?" >&2
    exit 1
  fi
  sleep 1
done
