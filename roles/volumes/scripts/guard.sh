#!/bin/sh
# guard DIR...: exits with 0 only if every folder lies on a volume that is declared for this host, is
# mounted where it belongs, and is encrypted: dm-crypt, or an EBS volume verified as encrypted; and if
# nothing else is mounted anywhere below it.
# Written by strongbox: a change made here is undone.
set -eu
LC_ALL=C
declared=/etc/strongbox/volumes
verified=/etc/strongbox/ebs-verified

refuse() { printf '%s\n' "strongbox guard: $1" >&2; exit 1; }

# Whether everything below a block device is dm-crypt.
encrypted() { # SYS
    case $(cat "$1/dm/uuid" 2>/dev/null || :) in CRYPT-*) return 0 ;; esac
    [ -d "$1/slaves" ] || return 1
    below=0
    for slave in "$1/slaves"/*; do
        [ -e "$slave" ] || return 1
        ( encrypted "$slave" ) || return 1
        below=1
    done
    [ "$below" = 1 ]
}

serial() { # SYS
    for f in "$1/serial" "$1/device/serial" "$1/../serial" "$1/../device/serial"; do
        [ ! -r "$f" ] || { tr -d ' \n' <"$f"; return; }
    done
}

opened() { # MAPPING
    for d in /sys/class/block/dm-*; do
        [ ! -r "$d/dm/name" ] || [ "$(cat "$d/dm/name")" != "$1" ] || return 0
    done
    return 1
}

[ $# -gt 0 ] || refuse "no folder was given"
[ -r "$declared" ] || refuse "$declared is not there: run deploys/site.py"
for dir; do
    [ -d "$dir" ] && here=$(readlink -f -- "$dir") || here=$dir
    # The declared mount point above the folder, the longest when there are several.
    wanted=
    while read -r kind mount id; do
        case $kind in luks | ebs) ;; *) continue ;; esac
        case $here/ in "$mount"/*)
            [ "${#mount}" -lt "${#wanted}" ] || { wanted=$mount; how=$kind; what=$id; } ;;
        esac
    done <"$declared"
    [ -n "$wanted" ] || refuse "$dir lies in no declared volume: it would be a plain folder"
    mounted=$(awk -v p="$wanted" '$5 == p { print $3 }' /proc/self/mountinfo | tail -n 1)
    if [ -z "$mounted" ]; then
        [ "$how" = luks ] || refuse "$dir: the EBS volume $what is not mounted on $wanted"
        ! opened "$what" ||
            refuse "$dir: /dev/mapper/$what is open but not mounted on $wanted: run deploys/unlock.py"
        refuse "$dir is a plain folder: $what is closed; run deploys/unlock.py"
    fi
    [ -d "$here" ] || refuse "$dir is not there: run deploys/site.py"
    # The file system that the folder is really in: nothing may be mounted over it.
    number=$(stat -c %Hd:%Ld -- "$here" 2>/dev/null) || refuse "$dir cannot be looked at"
    [ "$number" = "$mounted" ] || refuse "$dir is in another file system ($number) than $wanted"
    # Nor below it, where what is written would lie in that other file system.
    below=$(awk -v p="$here/" 'index($5, p) == 1 { print $5; exit }' /proc/self/mountinfo)
    [ -z "$below" ] || refuse "$dir has another file system mounted in it, on $below: unmount that"
    sys=/sys/dev/block/$mounted
    [ -d "$sys" ] || refuse "$dir: no device is known behind $wanted"
    sys=$(readlink -f -- "$sys")
    case $how in
        luks)
            encrypted "$sys" || refuse "$dir: the device behind $wanted is not dm-crypt"
            [ "$(cat "$sys/dm/name" 2>/dev/null)" = "$what" ] ||
                refuse "$dir: another device than /dev/mapper/$what is mounted on $wanted" ;;
        ebs)
            encrypted "$sys" && continue
            [ "$(serial "$sys")" = "$(printf %s "$what" | tr -d -)" ] ||
                refuse "$dir: the disk behind $wanted is not the EBS volume $what"
            [ "$(stat -c %U "$verified" 2>/dev/null)" = root ] && grep -qs "^$what " "$verified" ||
                refuse "$dir: the EBS volume $what is not verified as encrypted: run deploys/ebs.py" ;;
    esac
done
