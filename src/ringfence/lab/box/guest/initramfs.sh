#!/bin/busybox sh
# First process of a box, whose end is the box's: finds the disk and gives it to the init named on the kernel's command line, or to systemd.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
while read -r module; do
    /bin/busybox insmod "/lib/modules/$module.ko" || echo "ringfence: cannot load $module"
done </lib/modules/order
until [ -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root || exit 1
init=/usr/lib/systemd/systemd
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in ringfence.init=*) init=${word#*=} ;; esac
done
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root "$init"
