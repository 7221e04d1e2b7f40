#!/bin/busybox sh
# The first program of a guest: loads the disk's driver, then runs each command that comes by the second serial port.
# Output and input of a command are that port; its errors go to the console.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module || [ -n "$module" ]; do
    insmod "/modules/$module.ko" || echo "no module $module"
done </modules/order
stty -F /dev/ttyS1 raw -echo 115200
exec 3<>/dev/ttyS1
echo ready >&3
while read -r line <&3; do
    sh -c "$line" <&3 >&3 2>/dev/console
    echo "exit $?" >&3
done
poweroff -f
