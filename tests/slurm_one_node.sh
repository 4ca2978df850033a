#!/usr/bin/env bash
# A real SLURM of one node on this machine, for tests: slurm_one_node.sh start|stop FOLDER. As root, with Debian's
# slurmctld, slurmd, slurm-client and munge. It touches nothing outside FOLDER, to which SLURM_CONF=FOLDER/slurm.conf
# leads; one munge daemon is started where none runs.
set -euo pipefail
action=$1 state=$2
host=$(hostname -s)
munge=/run/munge/munge.socket.2

start() {
  mkdir -p "$state"/{controller,node}
  cat >"$state/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$1
SlurmdPort=$2
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=5,socket=$munge
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=1
ReturnToService=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
CONF
  export SLURM_CONF=$state/slurm.conf
  if [[ ! -S $munge ]]; then
    mkdir -p /run/munge /etc/munge /var/lib/munge /var/log/munge
    [[ -f /etc/munge/munge.key ]] || head -c 1024 /dev/urandom >/etc/munge/munge.key
    chown -R munge:munge /run/munge /etc/munge /var/lib/munge /var/log/munge
    chmod 400 /etc/munge/munge.key
    chmod 755 /run/munge
    su -s /bin/sh munge -c "munged --pid-file=/run/munge/munged.pid"
    cp /run/munge/munged.pid "$state/munged.pid"
  fi
  slurmctld
  slurmd
  for _ in $(seq 100); do
    [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]] && return
    sleep 0.2
  done
  tail -qn 5 "$state"/*.log >&2
  return 1
}

stop() {
  local name
  for name in slurmd slurmctld munged; do
    [[ ! -f $state/$name.pid ]] || kill "$(<"$state/$name.pid")" || true
  done
}

"$action" "${@:3}"
