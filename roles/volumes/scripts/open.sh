# open.sh DEVICE UUID MAPPING FLAG..., with the key (base64) on stdin: opens a volume of ours.
set -eu
device=$1 uuid=$2 mapping=$3
shift 3
IFS= read -r secret
lock "$device" "$device"
real=$(readlink -f -- "$device")
crypt=CRYPT-LUKS2-$(printf %s "$uuid" | tr -d -)-
seen=$(probe "$real" '')
has 'probe TYPE=crypto_LUKS' && has "probe UUID=$uuid" || die "$device: it is not this volume"
if [ -z "$(mapping_kernel "$mapping")" ]; then
    rc=0
    printf %s "$secret" | base64 -d | cryptsetup open --type luks2 --key-file - --keyfile-size 64 \
        "$@" -- "$real" "$mapping" || rc=$?
    [ "$rc" != 2 ] || die "$device: its key is not the one in its token; see docs/volumes.md"
    [ "$rc" = 0 ] || gone "$real" "$device" "opening it"
fi
case $(cat "/sys/class/block/$(mapping_kernel "$mapping")/dm/uuid") in
    "$crypt"*) ;;
    *) die "$device: /dev/mapper/$mapping is another volume" ;;
esac
