# DEVICE DIGEST begin SLOT; stdin: the key of SLOT. Makes the new volume key and writes to the header
#   that a re-encryption began; no data is touched.
# DEVICE DIGEST go-on; stdin: the same key. Re-encrypts to the end; may be killed at any time.
device=$1
key=$(next_key)
lock
unchanged "$2"
case $3 in
begin)
    proven "$4" "$key"
    key "$key" | cryptsetup reencrypt --batch-mode --init-only --key-slot "$4" \
        --resilience checksum --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - "$device"
    ;;
go-on)
    key "$key" | cryptsetup open --test-passphrase --key-file - "$device" 2>/dev/null ||
        fail 'the key does not open it' "$WRONG_KEY"
    key "$key" | cryptsetup reencrypt --batch-mode --resume-only --key-file - "$device"
    ;;
*) fail "cannot $3 a re-encryption" ;;
esac
