# DEVICE DIGEST SLOT; stdin: a key. Status 2 when the key does not open the keyslot.
device=$1
key=$(next_key)
lock
unchanged "$2"
proven "$3" "$key"
