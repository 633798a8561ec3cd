#!/bin/busybox sh
# First process of a lab guest. Kernel command line:
#   ringfence.balloon=0     leave virtio_balloon unloaded: a guest without a balloon driver
#   ringfence.agent=0       start no guest agent
#   ringfence.cpu_online=1  online new CPUs from here; without it they stay offline until somebody asks the agent to
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /mnt /tools /var
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin:/tools/bin
exec >/dev/console 2>&1 </dev/null

parameter() {
    for word in $(cat /proc/cmdline); do
        case $word in "ringfence.$1="*) echo "${word#*=}"; return ;; esac
    done
    echo "$2"
}

mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts pts /dev/pts
mount -t tmpfs -o size=95% run /run
mount -t tmpfs -o size=95% tmp /tmp
mount -t tmpfs -o size=95% shm /dev/shm
hostname ringfence

while read -r module; do
    [ "$module" = virtio_balloon ] && [ "$(parameter balloon 1)" = 0 ] && continue
    insmod "/lib/modules/$module.ko" || echo "ringfence: cannot load $module"
done </lib/modules/order

for name in /sys/class/virtio-ports/*/name; do
    [ -e "$name" ] || continue
    port=${name%/name}
    ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$name")"
done

for serial in /sys/block/vd*/serial; do
    [ -e "$serial" ] && [ "$(cat "$serial")" = ringfence-tools ] || continue
    disk=${serial%/serial}
    mount -t ext4 -o ro "/dev/${disk##*/}" /tools
done

ip link set lo up
for link in /sys/class/net/eth*; do
    [ -e "$link" ] && ip link set "${link##*/}" up
done

if [ "$(parameter cpu_online 0)" = 1 ]; then
    while sleep 1; do
        for online in /sys/devices/system/cpu/cpu*/online; do
            [ "$(cat "$online" 2>/dev/null)" = 0 ] && echo 1 >"$online"
        done
    done 2>/dev/null &
fi

echo "ringfence: guest is up"
channel=/dev/virtio-ports/org.qemu.guest_agent.0
while :; do
    if [ "$(parameter agent 1)" = 1 ] && [ -e "$channel" ]; then
        # The killer of processes that run out of memory must not take the only way in.
        sh -c 'echo -1000 >/proc/self/oom_score_adj; exec /usr/sbin/qemu-ga -m virtio-serial -p "$0" -t /run' "$channel"
        echo "ringfence: the agent ended with $?"
        sleep 0.2
    else
        sleep 3600
    fi
done
