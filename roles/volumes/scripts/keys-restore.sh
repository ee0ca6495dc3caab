# DEVICE DIGEST UUID restore SHA256; stdin: a backup of the header, gzip and base64.
# DEVICE DIGEST UUID repair
device=$1
lock
unchanged "$2"
only_ours "$3"
case $4 in
repair)
    # Whenever it looks, cryptsetup renews a damaged copy from the one that is whole.
    cryptsetup luksDump "$device" >/dev/null
    ;;
restore)
    work=$(mktemp -d /run/strongbox-header.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    base64 -d | gzip -cd >"$work/header"
    [ "$(sha256sum <"$work/header" | cut -c1-64)" = "$5" ] ||
        fail 'the header backup did not arrive whole; nothing was changed'
    cryptsetup luksHeaderRestore --batch-mode --header-backup-file "$work/header" "$device"
    ;;
*) fail "cannot $4 a header" ;;
esac
