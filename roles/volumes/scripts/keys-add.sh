# DEVICE DIGEST SLOT NEW_SLOT KDF; stdin: the key of SLOT, the new key.
device=$1
old=$(next_key)
new=$(next_key)
lock
unchanged "$2"
proven "$3" "$old"
case $5 in
pbkdf2) kdf='--pbkdf pbkdf2 --pbkdf-force-iterations 1000' ;;
# 64 MiB, so that several volumes can be opened at once on a small host: the key has 256 random bits.
argon2id) kdf='--pbkdf argon2id --pbkdf-memory 65536 --pbkdf-parallel 2 --pbkdf-force-iterations 4' ;;
*) fail "has no key derivation $5" ;;
esac
# shellcheck disable=SC2086
{ key "$old"; key "$new"; } | cryptsetup luksAddKey --batch-mode $kdf --key-slot "$3" --new-key-slot "$4" \
    --key-file - --keyfile-size "$(key "$old" | wc -c)" --new-keyfile-size "$(key "$new" | wc -c)" \
    "$device" -
proven "$4" "$new"
