#!/bin/bash
# A machine of its own for one test: systemd is PID 1 of a pid namespace, on an overlay of /. Nothing that happens inside
# reaches the machine outside, and what was written stays for the next boot, until standard input ends.
#
#   machine.sh NAME STAGE IN OUT OUTSIDE [VISIBLE...]
#     NAME     of its control groups: one that no other machine has
#     STAGE    an empty folder: the overlay is mounted there, in a mount namespace that nobody else sees
#     IN       folder whose files are put into the root before each boot
#     OUT      folder that is /out inside
#     OUTSIDE  folder whose files are taken for files of the machine outside
#     VISIBLE  a folder that can be read inside by its own path, also below /tmp and on another file system than /
#
# The product is absent inside, whatever the machine outside has of it: packages, settings, state, users.
#
# It must run in a mount namespace of its own (unshare --mount --propagation private). Each line that it reads boots the
# machine once: a file to be seen as /proc/sys/kernel/random/boot_id, or - for the one of the machine outside. When the
# boot is over, it prints `ended STATUS`: 130 is a power-off, 129 a reboot.
set -euo pipefail
name=$1 stage=$2 in=$(realpath "$3") out=$(realpath "$4") outside=$(realpath "$5")
visible=("${@:6}")

mount -t tmpfs -o size=4g,mode=755 tmpfs "$stage"
mkdir "$stage"/{upper,work,root}

groups=()
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    groups=("/sys/fs/cgroup/$name")
else
    for controller in systemd memory cpu pids unified; do
        [ ! -e "/sys/fs/cgroup/$controller/cgroup.procs" ] || groups+=("/sys/fs/cgroup/$controller/$name")
    done
fi
leave() {
    for group in "${groups[@]}"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + || true
    done
}
trap leave EXIT

# Removes the product from the root folder $1, as if no package of it had been there and no program of it had run.
without_product() {
    local root=$1 daemon
    for daemon in edr-agentd edr-collectd; do
        if [ -e "$root/var/lib/dpkg/info/$daemon.list" ]; then
            # No script of the package may run: it would speak to the systemd outside.
            rm -f "$root/var/lib/dpkg/info/$daemon".{prerm,postrm}
            dpkg --root="$root" --no-triggers --force-all --purge "$daemon"
        fi
        rm -rf "$root"/{etc,var/lib,var/log,usr/share/doc}/"$daemon" "$root/usr/sbin/$daemon" \
            "$root"/usr/lib/{systemd/system/$daemon.service,sysusers.d/$daemon.conf,tmpfiles.d/$daemon.conf}
        sed -i "/^$daemon:/d" "$root"/etc/{passwd,group,shadow,gshadow}
    done
}

# PID 1 of the machine: prepares its root, moves into it and becomes systemd.
boot() {
    cd "$stage"
    # Beside the root and not below it: the layers of an overlay may not overlap.
    [ -d outside ] || cp -rT "$outside" outside
    # A mount of its own for each boot: the last one went with its namespace.
    mount -t overlay overlay -o "lowerdir=outside:/,upperdir=upper,workdir=work" root
    if [ ! -e upper/.booted ]; then
        # What is enabled outside has nothing to do with a test.
        rm -rf root/etc/systemd/system root/var/log/journal
        without_product root
        touch root/.booted
    fi
    mkdir -p root/etc/systemd/system root/var/log/journal root/out
    # These would set what belongs to the one kernel that both machines have.
    for unit in systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-binfmt.service \
        proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
        modprobe@.service console-getty.service; do
        ln -sf /dev/null "root/etc/systemd/system/$unit"
    done
    # Only what is newer: what the machine itself has changed since stays.
    cp -rT --update --preserve=mode "$in" root
    mount -t proc proc root/proc
    [ "$1" = - ] || mount --bind "$1" root/proc/sys/kernel/random/boot_id
    mount -t sysfs -o ro sysfs root/sys
    if [ "${#groups[@]}" = 1 ]; then
        mount -t cgroup2 cgroup2 root/sys/fs/cgroup
    else
        mount -t tmpfs -o mode=755 tmpfs root/sys/fs/cgroup
        for group in "${groups[@]}"; do
            controller=$(basename "$(dirname "$group")")
            mkdir "root/sys/fs/cgroup/$controller"
            case $controller in
                systemd) mount -t cgroup -o none,name=systemd cgroup root/sys/fs/cgroup/systemd ;;
                unified) mount -t cgroup2 cgroup2 root/sys/fs/cgroup/unified ;;
                *) mount -t cgroup -o "$controller" cgroup "root/sys/fs/cgroup/$controller" ;;
            esac
        done
    fi
    mount -t tmpfs -o mode=755 tmpfs root/run
    mkdir -p root/run/lock
    mount -t tmpfs -o mode=1777 tmpfs root/tmp
    local folder
    # Sorted: a folder before the folders inside, which are then there already.
    while IFS= read -r folder; do
        [ -n "$folder" ] && [ ! -e "root$folder" ] || continue
        mkdir -p "root$folder"
        mount --bind "$folder" "root$folder"
        mount -o remount,bind,ro "root$folder"
    done <<<"$visible_in"
    mount -t tmpfs -o mode=755 tmpfs root/dev
    for node in null zero full random urandom tty; do touch root/dev/$node; mount --bind /dev/$node root/dev/$node; done
    ln -s /proc/self/fd root/dev/fd
    ln -s /proc/self/fd/0 root/dev/stdin
    ln -s /proc/self/fd/1 root/dev/stdout
    ln -s /proc/self/fd/2 root/dev/stderr
    mkdir root/dev/{shm,pts,mqueue,hugepages}
    mount -t tmpfs -o mode=1777 tmpfs root/dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
    ln -s pts/ptmx root/dev/ptmx
    mount -t mqueue mqueue root/dev/mqueue
    touch root/dev/console
    mount --bind /dev/null root/dev/console
    mount --bind "$out" root/out
    ip link set lo up
    # An id of its own: journald's files and the agent's host id come from it.
    rm -f root/etc/machine-id
    echo 0123456789abcdef0123456789abcdef >root/etc/machine-id
    cd root
    mkdir -p .old
    pivot_root . .old
    cd /
    umount -l /.old
    mount --make-rshared /
    exec env -i container=private PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
        --unit=multi-user.target --log-target=journal --show-status=no
}
export -f boot without_product
export stage in out outside

while read -r boot_id; do
    mkdir -p "${groups[@]}"
    status=0
    # The child moves itself, so that this shell is in none of the groups when they are removed.
    (
        for group in "${groups[@]}"; do echo "$BASHPID" >"$group/cgroup.procs"; done
        # shellcheck disable=SC2016 # expanded inside
        groups_in="${groups[*]}" visible_in="$(printf '%s\n' "${visible[@]}" | LC_ALL=C sort)" exec unshare --mount --propagation private --pid --fork --cgroup --uts --net --ipc \
            --kill-child bash -euc 'groups=($groups_in); boot "$1"' machine "$boot_id"
    ) </dev/null || status=$?
    leave
    echo "ended $status"
done
