# Functions for the other scripts of this folder, which are sent with this one in front. POSIX sh.
# Those that look write to no device; they print "KEY VALUE" lines, which roles/volumes/look.py reads,
# and have variables of their own only when they are called in $(...).

LC_ALL=C
export LC_ALL PATH="$PATH:/usr/sbin:/sbin"
HEAD=16777216   # bytes before a LUKS2 volume's data; behind them lies the mark of a formatting
BLOCK_BEGIN='# strongbox volumes: begin'
BLOCK_END='# strongbox volumes: end'

say() { printf '%s %s\n' "$1" "$2"; }
die() { printf '%s\n' "$(uname -n): $1" >&2; exit 1; }

kernel_name() { printf '%s' "${1#/dev/}" | tr / '!'; }

kind_of() { # SYS
    uuid=
    [ ! -r "$1/dm/uuid" ] || read -r uuid <"$1/dm/uuid" || :
    if [ -e "$1/partition" ]; then echo part
    elif [ -d "$1/loop" ]; then echo loop
    elif [ -d "$1/dm" ]; then
        case $uuid in LVM-*) echo lvm ;; mpath-*) echo multipath ;; *) echo "device-mapper" ;; esac
    elif [ -d "$1/md" ]; then echo md
    elif [ -e "$1/device" ]; then echo disk
    else echo other; fi
}

# Of the disk; a partition's has its number appended, as its siblings have the same disk.
serial_of() { # SYS
    suffix=
    sys_s=$1
    if [ -e "$1/partition" ]; then
        suffix=-part$(cat "$1/partition")
        sys_s=$(readlink -f "$1/..")
    fi
    found=
    for f in "$sys_s/serial" "$sys_s/device/serial" "$sys_s/dm/uuid" "$sys_s/loop/backing_file"; do
        [ -n "$found" ] || ! [ -r "$f" ] || found=$(tr -d '\n' <"$f" 2>/dev/null || :)
        [ "$found" != '(null)' ] || found=
    done
    udev=/run/udev/data/b$(cat "$sys_s/dev")
    for key in ID_SERIAL_SHORT ID_SERIAL; do
        [ -n "$found" ] || ! [ -r "$udev" ] || found=$(sed -n "s/^E:$key=//p" "$udev" | head -n 1)
    done
    found=$(printf '%s' "$found" | sed 's/^ *//; s/ *$//')
    [ -z "$found" ] || printf '%s%s\n' "$found" "$suffix"
}

# Mount points of a device, one a line.
mounts_of() { # KERNEL
    awk -v n="$(cat "/sys/class/block/$1/dev")" -v s="/dev/$1" '
        { source = ""; for (i = 7; i <= NF; i++) if ($i == "-") { source = $(i + 2); break } }
        $3 == n || source == s { print $5 }' /proc/self/mountinfo
}

# The device that a first field of fstab or second of crypttab means.
spec_device() {
    case $1 in
        /*) readlink -f -- "$1" ;;
        *=*)
            by=$(printf '%s' "${1%%=*}" | tr 'A-Z' 'a-z')
            value=$(printf '%s' "${1#*=}" | tr -d '"')
            readlink -f -- "/dev/disk/by-$by/$value" ;;
    esac || :
}

# One field of every line that is not in our block.
fields() { # FILE NUMBER
    [ ! -r "$1" ] || awk -v f="$2" -v b="$BLOCK_BEGIN" -v e="$BLOCK_END" '
        $0 == b { ours = 1 }
        !ours && $1 !~ /^#/ && NF >= f { print $f }
        $0 == e { ours = 0 }' "$1"
}

listed_in() { # FILE NUMBER KERNEL
    fields "$1" "$2" | while read -r spec; do
        [ "$(spec_device "$spec")" != "/dev/$3" ] || { say listed "$1"; break; }
    done
}

# Prints "probe KEY=VALUE" lines. blkid exits with 2 when it finds nothing and when it cannot read.
probe() { # DEVICE PREFIX
    rc=0
    out=$(blkid -p -o export -- "$1" 2>&1) || rc=$?
    case $rc in
        0 | 2)
            bad=$(printf '%s\n' "$out" | grep -vE '^$|^[A-Z0-9_]+=' | head -n 1 || :)
            if [ -n "$bad" ]; then say unknown "$1: $bad"; return; fi ;;
        8) ;;
        *) say unknown "blkid of $1 exits with $rc: $(printf '%s' "$out" | head -n 1)"; return ;;
    esac
    say "$2blkid" "$rc"
    [ "$rc" != 0 ] || printf '%s\n' "$out" | sed -nE "s/^(TYPE|PTTYPE|UUID|LABEL)=/${2}probe &/p"
}

signatures() { # DEVICE
    rc=0
    out=$(wipefs --no-act --noheadings --output OFFSET,TYPE -- "$1" 2>&1) || rc=$?
    if [ "$rc" != 0 ]; then say unknown "wipefs of $1: $(printf '%s' "$out" | head -n 1)"; return; fi
    printf '%s\n' "$out" | sed -nE 's/^ *(0x[0-9a-f]+) +(.*[^ ]) *$/signature \1 \2/p'
    bad=$(printf '%s\n' "$out" | grep -vE '^ *$|^ *0x[0-9a-f]+ ' | head -n 1 || :)
    [ -z "$bad" ] || say unknown "wipefs of $1: $bad"
}

# Whether nobody else has it open: with --no-act wipefs opens it O_RDWR|O_EXCL and writes nothing.
exclusive() { # DEVICE
    rc=0
    out=$(wipefs --all --no-act -- "$1" 2>&1 >/dev/null) || rc=$?
    case $rc,$out in
        0,*) say exclusive yes ;;
        *[Bb]usy*) say exclusive no ;;
        *) say unknown "opening $1 alone: $(printf '%s' "$out" | head -n 1)" ;;
    esac
}

part() { # DEVICE BLOCK-SIZE SKIP COUNT
    dd if="$1" bs="$2" skip="$3" count="$4" iflag=fullblock status=none 2>/dev/null ||
        printf '!unreadable!'
}
# Says whether blocks are all zero. In Perl, which every Debian has (perl-base is essential): as many
# processes as blocks would take a minute on a slow host.
zero() { # KEY DEVICE [FROM TO STEP SIZE]...: in each range a block of SIZE bytes every STEP bytes
    perl -e '
        my ($key, $device, @ranges) = @ARGV;
        sub unreadable {
            print "unknown $device cannot be read everywhere: is the disk failing? (dmesg)\n";
            exit;
        }
        open(my $disk, "<:raw", $device) or unreadable();
        while (my ($at, $to, $step, $size) = splice(@ranges, 0, 4)) {
            for (; $at < $to; $at += $step) {
                sysseek($disk, $at, 0) or unreadable();
                my $wanted = $at + $size > $to ? $to - $at : $size;
                my $got = sysread($disk, my $block, $wanted);
                unreadable() unless defined $got && $got == $wanted;
                if ($block =~ tr/\0//c) { print "$key no\n"; exit; }
            }
        }
        print "$key yes\n";' "$@" || say unknown "blocks of $2 could not be read"
}

mark_of() { part "$1" 4096 $((HEAD / 4096)) 1 | tr -d '\0' | head -c 200 | tr -c '[:graph:] ' '?'; }

# SAMPLES blocks in equal distances behind the head, then the last 4 MiB.
tail_zero() { # DEVICE BYTES SAMPLES
    first=$((HEAD + 4096))
    step=$((($2 - first) / $3 / 4096 * 4096))
    [ "$step" -gt 0 ] || step=4096
    zero tail-zero "$1" "$first" "$2" "$step" 4096 $(($2 - 4194304)) "$2" 1048576 1048576
}

emptiness() { # DEVICE BYTES SAMPLES
    zero head-zero "$1" 0 "$HEAD" 1048576 1048576
    mark=$(mark_of "$1")
    case $mark in
        '') tail_zero "$1" "$2" "$3" ;;
        'strongbox formatting '*)
            say mark "${mark#strongbox formatting }"
            tail_zero "$1" "$2" "$3" ;;
        *) say tail-zero no ;;
    esac
}

# All about a device itself.
look_device() { # DEVICE SAMPLES
    real=$(readlink -f -- "$1") || real=
    if [ ! -b "$real" ]; then say absent "$1"; return; fi
    k=$(kernel_name "$real")
    sys=/sys/class/block/$k
    if [ ! -d "$sys" ]; then say unknown "$sys is not there"; return; fi
    say kernel "$k"
    say kind "$(kind_of "$sys")"
    bytes=$(blockdev --getsize64 "$real") || { say unknown "size of $real"; return; }
    say bytes "$bytes"
    ro=$(blockdev --getro "$real") || { say unknown "read-only flag of $real"; return; }
    say read-only "$ro"
    queue=$sys/queue
    [ -d "$queue" ] || queue=$sys/../queue
    say rotational "$(cat "$queue/rotational" 2>/dev/null || echo 1)"
    say serial "$(serial_of "$sys")"
    all=$k
    for child in "$sys"/*/partition; do
        [ -e "$child" ] || continue
        child=${child%/partition}
        say child "${child##*/}"
        all="$all ${child##*/}"
    done
    for each in $all; do
        for holder in "/sys/class/block/$each/holders"/*; do
            [ ! -e "$holder" ] || say holder "${holder##*/}"
        done
        mounts_of "$each" | sed 's/^/mounted /'
        [ ! -r /proc/swaps ] || awk 'NR > 1 { print $1 }' /proc/swaps | while read -r swap; do
            [ "$(readlink -f -- "$swap")" != "/dev/$each" ] || say swap "$swap"
        done
        [ ! -r /proc/mdstat ] || ! grep -qE "(^| )$each(\[|[^a-z0-9]|\$)" /proc/mdstat ||
            say listed /proc/mdstat
        listed_in /etc/fstab 1 "$each"
        listed_in /etc/crypttab 2 "$each"
    done
    if [ "$(part "$real" 4096 0 1 | wc -c)" != 4096 ]; then
        say unknown "$real cannot be read: is the disk failing or gone? (dmesg)"
        return
    fi
    if [ "$ro" = 0 ]; then exclusive "$real"; else say exclusive no; fi
    found=$(probe "$real" '')
    printf '%s\n' "$found"
    marks=$(signatures "$real")
    [ -z "$marks" ] || printf '%s\n' "$marks"
    case $found$marks in
        *crypto_LUKS*) say luks "$(part "$real" 16384 0 2 | gzip -cn | base64 -w0)" ;;
        'blkid 2')
            if [ -z "$marks" ] && [ "$bytes" -ge 33554432 ]; then
                emptiness "$real" "$bytes" "$2"
            fi ;;
    esac
}

# The kernel name of the open mapping, nothing when there is none.
mapping_kernel() { # MAPPING
    for d in /sys/class/block/dm-*; do
        [ -r "$d/dm/name" ] && [ "$(cat "$d/dm/name")" = "$1" ] && { echo "${d##*/}"; return; }
    done
    :
}

look_mapping() { # MAPPING
    m=$(mapping_kernel "$1")
    [ -n "$m" ] || return 0
    say mapping "$m"
    say mapping-uuid "$(cat "/sys/class/block/$m/dm/uuid")"
    for each in "/sys/class/block/$m/slaves"/*; do [ ! -e "$each" ] || say mapping-on "${each##*/}"; done
    for each in "/sys/class/block/$m/holders"/*; do
        [ ! -e "$each" ] || say mapping-holder "${each##*/}"
    done
    mounts_of "$m" | sed 's/^/mapping-mounted /'
    probe "/dev/$m" mapping-
}

look_mount() { # MOUNT
    if [ "$(readlink -m -- "$1")" != "$1" ]; then say mount-point link
    elif [ ! -e "$1" ]; then say mount-point absent
    elif [ ! -d "$1" ]; then say mount-point file
    else
        top=$(awk -v p="$1" '$5 == p { print $3, $6 }' /proc/self/mountinfo | tail -n 1)
        if [ -n "$top" ]; then
            dev=/sys/dev/block/${top%% *}
            [ ! -e "$dev" ] || dev=$(readlink -f "$dev")
            say mount-point "mounted ${dev##*/} ${top#* }"
        elif inside=$(ls -A -- "$1" 2>&1); then
            if [ -z "$inside" ]; then say mount-point empty; else say mount-point full; fi
        else
            say unknown "$1: $inside"
        fi
    fi
    ! fields /etc/fstab 2 | grep -qxF -- "$1" || say conflict /etc/fstab
}

# Waits for udev, which opens devices for a moment after they change.
lock() { # DEVICE
    [ -b "$1" ] || die "$2: the disk is gone (dmesg says why); nothing was changed"
    exec 9<"$1" || die "$2: cannot be opened"
    flock -x -w 60 9 || die "$2: another process keeps it locked; nothing was changed"
}

gone() { # DEVICE NAME DOING
    [ "$(part "$1" 4096 0 1 | wc -c)" = 4096 ] ||
        die "$2: the disk vanished while $3 (dmesg says why): bring it back, then run again"
    die "$2: $3 failed; see above"
}

has() { printf '%s\n' "$seen" | grep -qxF -- "$1"; }
hasno() { # KEY...
    for not; do
        ! printf '%s\n' "$seen" | grep -q -- "^$not " ||
            die "$device: $(printf '%s\n' "$seen" | grep -- "^$not " | head -n 1): not formatted"
    done
}
