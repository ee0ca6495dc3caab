# format.sh WHY DEVICE UUID LABEL MAPPING SERIAL MIN MAX, with the key (base64) and the token (JSON)
# on stdin, a line each: makes the disk LUKS2 with this one key.
#
# Looks at everything again, while the disk is locked, whatever the plan has seen. WHY is `empty`,
# `interrupted` (its header or its mark says that formatting began and never ended) or `wipe` (the
# operator confirmed SERIAL).
set -eu
why=$1 device=$2 uuid=$3 label=$4 mapping=$5 serial=$6 min=$7 max=$8
IFS= read -r secret
IFS= read -r token
[ "$(printf %s "$secret" | base64 -d | wc -c)" = 64 ] || die "$device: the key did not arrive whole"

lock "$device" "$device"
real=$(readlink -f -- "$device")
seen=$(look_device "$device" 4096)
hasno unknown absent holder mounted swap listed
has 'exclusive yes' || die "$device: something has it open; not formatted"
has 'read-only 0' || die "$device: it is read-only; not formatted"
has "serial $serial" || die "$device: it is not the disk that was looked at; not formatted"
case $(printf '%s\n' "$seen" | sed -n 's/^kind //p') in
    disk | part | lvm | multipath | loop) ;;
    *) die "$device: not a disk, partition or LVM volume; not formatted" ;;
esac
bytes=$(printf '%s\n' "$seen" | sed -n 's/^bytes //p')
[ "$bytes" -ge "$min" ] && [ "$bytes" -le "$max" ] || die "$device: it has $bytes bytes; not formatted"
[ -z "$(mapping_kernel "$mapping")" ] || die "$device: /dev/mapper/$mapping is open; not formatted"

begun() { has "mark $uuid" && has 'tail-zero yes' && has 'blkid 2'; }
never_mounted() {
    has 'blkid 0' && has 'probe TYPE=crypto_LUKS' && has "probe UUID=$uuid" &&
        has "probe LABEL=$label"
}
case $why in
    empty)
        hasno child probe signature mark
        has 'blkid 2' && has 'head-zero yes' && has 'tail-zero yes' ||
            die "$device: it is not empty; not formatted" ;;
    interrupted)
        hasno child
        begun || never_mounted ||
            die "$device: this is not what an interrupted run leaves; not formatted" ;;
    wipe)
        [ -n "$serial" ] || die "$device: no serial was confirmed; not formatted"
        ! has "probe UUID=$uuid" || die "$device: it is this volume already; not formatted"
        for child in "/sys/class/block/$(kernel_name "$real")"/*/partition; do
            [ -e "$child" ] || continue
            child=${child%/partition}
            wipefs --all --quiet -- "/dev/${child##*/}" || gone "$real" "$device" "wiping it"
        done
        wipefs --all --quiet -- "$real" || gone "$real" "$device" "wiping it"
        ! command -v udevadm >/dev/null || udevadm settle --timeout 30 || :
        seen=$(look_device "$device" 4096)
        hasno unknown absent child probe signature holder mounted
        has 'blkid 2' || die "$device: could not be wiped; not formatted" ;;
    *) die "format.sh: $why?" ;;
esac

# From here until there is a file system this block says that the disk is ours to format again.
{ printf 'strongbox formatting %s' "$uuid"; dd if=/dev/zero bs=4096 count=1 status=none; } |
    dd of="$real" bs=4096 seek=$((HEAD / 4096)) count=1 iflag=fullblock conv=notrunc,fsync \
        status=none || gone "$real" "$device" "marking it"
printf %s "$secret" | base64 -d | cryptsetup luksFormat --batch-mode --type luks2 \
    --cipher aes-xts-plain64 --key-size 512 --hash sha256 --sector-size 4096 \
    --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-slot 0 --label "$label" --uuid "$uuid" \
    --key-file - --keyfile-size 64 -- "$real" || gone "$real" "$device" "formatting it"
printf '%s\n' "$token" | cryptsetup token import --batch-mode --token-id 0 -- "$real" ||
    gone "$real" "$device" "storing its token"
printf %s "$secret" | base64 -d | cryptsetup open --test-passphrase --type luks2 --key-slot 0 \
    --key-file - --keyfile-size 64 -- "$real" || gone "$real" "$device" "trying its key"
