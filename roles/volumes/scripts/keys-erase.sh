# DEVICE DIGEST SERIAL: makes the volume unreadable for ever, whoever has its keys.
device=$1
lock
unchanged "$2"
[ "$(serial)" = "$3" ] || fail 'it is another disk; nothing was changed' "$CHANGED"
only_ours
# Claims the disk for as long as the command runs, so that nobody can mount or open it meanwhile.
alone() { # COMMAND...
    perl -MFcntl -e '
        my $device = shift;
        $^F = 255;  # the claim outlives exec
        sysopen(my $claim, $device, O_RDWR | O_EXCL) or die "$device: $!\n";
        exec(@ARGV) or die "$ARGV[0]: $!\n";' "$device" "$@"
}
# It fails when the header is damaged; what follows does not need it.
cryptsetup luksErase --batch-mode "$device" || true
# Both copies of the header and the room for keyslots, whatever was left there: 16 MiB, as formatted.
for source in urandom zero; do
    alone dd if="/dev/$source" of="$device" bs=1M count=16 iflag=fullblock oflag=direct \
        conv=notrunc,fsync status=none
done
[ "$(bytes 0 $((16 << 20)) | tr -d '\0' | wc -c)" = 0 ] || fail 'its header is still there'
