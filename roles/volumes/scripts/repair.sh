# repair.sh DEVICE UUID: cryptsetup writes a damaged copy of the header anew when it reads the other.
set -eu
lock "$1" "$1"
real=$(readlink -f -- "$1")
seen=$(probe "$real" '')
has 'probe TYPE=crypto_LUKS' && has "probe UUID=$2" || die "$1: it is not this volume"
cryptsetup luksDump -- "$real" >/dev/null || gone "$real" "$1" "repairing its header"
