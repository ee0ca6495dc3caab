# DEVICE DIGEST SLOT KEPT; stdin: the key of KEPT, the keyslot that stays.
device=$1
key=$(next_key)
lock
unchanged "$2"
[ "$3" -ne "$4" ] || fail "keyslot $3 cannot be removed and kept at once"
# cryptsetup removes any keyslot, the last one too, without asking for a key.
proven "$4" "$key"
cryptsetup luksKillSlot --batch-mode "$device" "$3" </dev/null
proven "$4" "$key"
