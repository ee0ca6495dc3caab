# DEVICE DIGEST write ID SLOT; stdin: the token's JSON in one line, the key of SLOT.
# DEVICE DIGEST stage ID SLOT; stdin: the same; the key is one by whose authority others are added.
# DEVICE DIGEST remove ID
device=$1
case $3 in
write | stage)
    IFS= read -r token || fail 'its token did not arrive; nothing was changed'
    key=$(next_key)
    lock
    unchanged "$2"
    # A token names a keyslot only after its key has opened that keyslot.
    proven "$5" "$key"
    printf '%s\n' "$token" |
        cryptsetup token import --token-id "$4" --token-replace --json-file - "$device"
    ;;
remove)
    lock
    unchanged "$2"
    cryptsetup token remove --token-id "$4" "$device"
    ;;
*) fail "cannot $3 a token" ;;
esac
