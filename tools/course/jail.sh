#!/bin/sh
# jail.sh ROOT USER PROCESSES MEMORY FILE PATHS COMMAND...
# In namespaces that are new: a root of its own that holds PATHS, read only, and an empty home.
set -eu
umask 022
root=$1 user=$2 processes=$3 memory=$4 file=$5 paths=$6
shift 6
mount -t tmpfs -o nosuid,nodev,mode=755,size=256m jail "$root"
echo "$paths" | while read -r path; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; : > "$root$path"; fi
    mount --rbind "$path" "$root$path"
    mount -o remount,bind,ro,nosuid "$root$path"
done
mkdir -p "$root/proc" "$root/dev/shm" "$root/home" "$root/tmp"
chmod 1777 "$root/dev/shm" "$root/tmp" "$root/home"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for device in null zero urandom random; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
if [ "$user" = same ]; then who="--keep-groups"; else who="--reuid $user --regid $user --clear-groups"; fi
# shellcheck disable=SC2086
exec prlimit --nproc="$processes" --data="$memory" --fsize="$file" --nofile=256 --core=0 --memlock=65536 --msgqueue=0 \
    chroot "$root" setpriv $who --no-new-privs --inh-caps=-all --bounding-set=-all --pdeathsig KILL "$@"
