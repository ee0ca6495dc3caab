# DEVICE DIGEST: prints a backup of the header, gzip and base64.
device=$1
lock
unchanged "$2"
image | gzip -1 -cn | base64 -w 65536
unchanged "$2"
