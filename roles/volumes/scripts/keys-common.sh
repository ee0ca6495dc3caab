# Stands before each of the scripts about keys, behind lib.sh. They get DEVICE, DIGEST and their own arguments.
# DIGEST is of the header that was looked at when the step was decided on: a step is done to exactly
# that one or to none. Keys come on stdin, a line of base64 each, and never reach an argument.
set -eu
umask 077
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

COPY=16384  # bytes of one copy of the LUKS2 header; the second copy follows the first
WRONG_KEY=2 CHANGED=3 BUSY=4

fail() {
    echo "$device: $1" >&2
    exit "${2:-1}"
}

bytes() { # OFFSET COUNT
    dd if="$device" bs=65536 iflag=skip_bytes,count_bytes skip="$1" count="$2" status=none
}

# Of both copies of the header.
digest() { bytes 0 $((2 * COPY)) | sha256sum | cut -c1-64; }

metadata() { bytes 4096 $((COPY - 4096)) | tr -d '\0'; }

# Offset and size of the key material of each keyslot, in order.
areas() {
    metadata | sed 's/"area":/\n&/g' |
        sed -n 's/^"area":{"type":"raw","offset":"\([0-9]*\)","size":"\([0-9]*\)".*/\1 \2/p' | sort -n
}

# The header as a backup has it. luksFormat fills the room for further keyslots with random bytes,
# 16 MiB that nothing compresses: only what belongs to a keyslot is kept, the rest reads as zero.
image() {
    room=$(metadata | sed -n 's/.*"keyslots_size":"\([0-9]*\)".*/\1/p')
    { echo "0 $((2 * COPY))"; areas; echo "$((2 * COPY + ${room:-0})) 0"; } | {
        at=0
        while read -r offset count; do
            # A header that is damaged can say anything.
            [ "$offset" -ge "$at" ] && [ "$((offset + count))" -le $((64 << 20)) ] || break
            head -c "$((offset - at))" /dev/zero
            [ "$count" = 0 ] || bytes "$offset" "$count"
            at=$((offset + count))
        done
    }
}

kernel() { readlink -f -- "$device" | sed 's|^/dev/||; s|/|!|g'; }

serial() { serial_of "/sys/class/block/$(kernel)"; }

# What is on the disk, for people; nothing when there is nothing.
signature() {
    seen=$(probe "$device" '')
    case $seen in
    *'probe PTTYPE='*) echo 'a partition table' ;;
    'blkid 0'*) printf '%s\n' "$seen" | sed -n 's/^probe TYPE=//p' ;;
    'blkid 2') ;;
    *) echo "what blkid cannot tell ($(printf '%s\n' "$seen" | head -n 1))" ;;
    esac
}

# Before a header is overwritten: nobody else's is on the disk, and nobody else uses it.
only_ours() { # [UUID], of a volume that may be open meanwhile
    seen=$(look_device "$device" 16)
    others=$(printf '%s\n' "$seen" | awk '
        /^(absent|unknown|child|mounted|swap|listed \/proc)/ || /^probe PTTYPE=/ ||
        (/^probe TYPE=/ && $0 != "probe TYPE=crypto_LUKS") ||
        (/^signature / && $3 != "crypto_LUKS")')
    [ -z "$others" ] ||
        fail "in use or not only ours ($(printf '%s\n' "$others" | head -n 1)); nothing was changed" "$BUSY"
    printf '%s\n' "$seen" | grep -qx 'blkid [02]' ||
        fail 'blkid does not say what is on it; nothing was changed' "$BUSY"
    open=
    for holder in $(printf '%s\n' "$seen" | sed -n 's/^holder //p'); do
        open=$(cat "/sys/class/block/$holder/dm/uuid" 2>/dev/null || :)
        case ${1:+$open} in
        "CRYPT-LUKS2-$(printf %s "${1:-}" | tr -d -)-"*) ;;
        *) fail "it is in use by $holder; nothing was changed" "$BUSY" ;;
        esac
    done
    [ -n "$open" ] || printf '%s\n' "$seen" | grep -qx 'exclusive yes' ||
        fail 'somebody else has it open, or it is read-only; nothing was changed' "$BUSY"
}

lock() {
    [ -b "$device" ] || fail 'the disk is gone; nothing was changed' "$BUSY"
    exec 9<"$device"
    flock -x -w 60 9 || fail 'another process keeps it locked; nothing was changed' "$BUSY"
}

unchanged() { # DIGEST
    [ "$(digest)" = "$1" ] ||
        fail 'its LUKS header is not the one that was looked at; nothing was changed' "$CHANGED"
}

key() { printf %s "$1" | base64 -d; }

# The next key of stdin. A connection that ends early must not leave a volume with an empty key.
next_key() {
    IFS= read -r line || fail 'its key did not arrive; nothing was changed'
    [ "$(key "$line" | wc -c)" -ge 32 ] || fail 'its key did not arrive whole; nothing was changed'
    printf %s "$line"
}

proven() { # SLOT KEY
    key "$2" | cryptsetup open --test-passphrase --key-slot "$1" --key-file - "$device" 2>/dev/null ||
        fail "the key does not open keyslot $1" "$WRONG_KEY"
}
