# DEVICE DIGEST SERIAL: makes the volume unreadable for ever, whoever has its keys.
device=$1
lock
unchanged "$2"
[ "$(serial)" = "$3" ] || fail 'it is another disk; nothing was changed' "$CHANGED"
[ -z "$(ls "/sys/class/block/$(kernel)/holders")" ] || fail 'it is open; nothing was changed' "$BUSY"
! findmnt --noheadings "$(readlink -f "$device")" >/dev/null || fail 'it is mounted; nothing was changed' "$BUSY"
# It fails when the header is damaged; what follows does not need it.
cryptsetup luksErase --batch-mode "$device" || true
# Both copies of the header and the room for keyslots, whatever was left there: 16 MiB, as formatted.
for source in urandom zero; do
    dd if="/dev/$source" of="$device" bs=1M count=16 iflag=fullblock oflag=direct \
        conv=notrunc,fsync status=none
done
[ "$(bytes 0 $((16 << 20)) | tr -d '\0' | wc -c)" = 0 ] || fail 'its header is still there'
