#!/bin/bash
# The recipes of configs/slurm, and a study, on a real SLURM of one machine: preempted, and compared with uninterrupted runs.
#
#     sudo scripts/slurm_check.sh [--preemptions 10] [--fit "--config eq.yaml"]... [--python .venv/bin/python]
#                                 [--only "one limits seeds nodes study"] [--minutes 3] [--output results/slurm.md] [--keep]
#
# Starts a munged, a slurmctld and two slurmd of its own in a temporary folder, and ends them. It installs nothing: it
# needs root and the Debian packages slurm-wlm and munge; the study needs the extra `slurm`. Preemptions, in turn:
#     TERM, USR1   the signals that SLURM sends before the limit, to all processes of the step
#     requeue      scontrol requeue: SIGTERM, and SIGKILL ten seconds later
#     power        slurmd and all that it has started are killed by SIGKILL, and slurmd is started again
# --fit gives options of fit; one.sbatch runs with each, the other recipes with the first. --only names parts, --minutes is
# the limit of the job in the part limits. --output takes the table, --keep leaves logs and runs. Exit code 1 where weights
# differ or a job ends in another state than it should.
set -uo pipefail
STARTED=$SECONDS PREEMPTIONS=10 PYTHON=python3 KEEP='' OUTPUT='' FITS=() PARTS='one limits seeds nodes study' MINUTES=3
while [ $# -gt 0 ]; do
    case $1 in
        --preemptions) PREEMPTIONS=$2; shift 2 ;;
        --fit) FITS+=("$2"); shift 2 ;;
        --python) PYTHON=$2; shift 2 ;;
        --only) PARTS=$2; shift 2 ;;
        --minutes) MINUTES=$2; shift 2 ;;
        --output) OUTPUT=$(realpath "$2"); shift 2 ;;
        --keep) KEEP=1; shift ;;
        *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
[ ${#FITS[@]} -gt 0 ] || FITS=("--config eq.yaml --trainer.max_epochs 6" "--config best/tt.yaml --trainer.max_epochs 1")
for needed in munged slurmctld slurmd sbatch srun scontrol; do
    command -v $needed > /dev/null || { echo "slurm_check: $needed is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurm_check: the daemons need root" >&2; exit 2; }

REPOSITORY=$(cd "$(dirname "$0")/.." && pwd)
WORK=$(mktemp -d) PORT=$((20000 + $$ % 4000 * 3))
mkdir "$WORK/bin" "$WORK/state"
# A link would not do: Python finds its environment by the path that it was called by.
printf '#!/bin/sh\nexec "%s" "$@"\n' "$(realpath -s "$(command -v "$PYTHON")")" > "$WORK/bin/python" && chmod +x "$WORK/bin/python"
export PATH="$WORK/bin:$PATH" PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}" SLURM_CONF="$WORK/slurm.conf"
export OMP_NUM_THREADS=1 WANDB_MODE=${WANDB_MODE:-offline} MASTER_ADDR=127.0.0.1  # names of the nodes are in no DNS

tree() { local child; for child in $(pgrep -P "$1"); do tree "$child"; done; echo "$1"; }   # children first
pid_of() { cat "$WORK/$1.pid" 2> /dev/null; }
start_node() { slurmd -N "node$1" -L "$WORK/node$1.log" && sleep 1; }
# Everything on a node: slurmd, and the step daemons, which have left it, with all below them.
node_tree() {
    local process
    for process in $(pgrep -f "slurmstepd: \[[0-9]") $(pid_of "node$1"); do
        grep -qz "^SLURM_CONF=$WORK/" "/proc/$process/environ" 2> /dev/null && tree "$process"
    done
}
finish() {
    trap - EXIT INT TERM
    scancel --user=root --full 2> /dev/null
    local process
    for process in $(node_tree 1) $(node_tree 2) $(pid_of slurmctld) $(pid_of munged); do kill -KILL "$process" 2> /dev/null; done
    if [ -n "$KEEP" ]; then echo "slurm_check: logs and runs are in $WORK" >&2; else rm -rf "$WORK"; fi
    exit "$1"
}
trap 'finish 1' EXIT INT TERM

dd if=/dev/urandom of="$WORK/munge.key" bs=128 count=1 status=none && chmod 400 "$WORK/munge.key"
munged --socket="$WORK/munge" --key-file="$WORK/munge.key" --pid-file="$WORK/munged.pid" --log-file="$WORK/munged.log" \
    --seed-file="$WORK/munge.seed" --force || finish 1
cat > "$SLURM_CONF" <<END
ClusterName=check
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$WORK/munge,cred_expire=5
CredType=cred/munge
SlurmctldPort=$PORT
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmctldLogFile=$WORK/slurmctld.log
SlurmdPidFile=$WORK/%n.pid
SlurmdSpoolDir=$WORK/spool-%n
StateSaveLocation=$WORK/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
KillWait=10
SlurmdTimeout=15
MinJobAge=3600
ReturnToService=2
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=4
NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=4
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
END
slurmctld -L "$WORK/slurmctld.log" || finish 1
start_node 1 && start_node 2 || finish 1
for _ in $(seq 30); do [ "$(sinfo -h -t idle -o %D)" = 2 ] && break; sleep 1; done
[ "$(sinfo -h -t idle -o %D)" = 2 ] || { sinfo >&2; tail "$WORK"/*.log >&2; KEEP=1; finish 1; }
cd "$WORK" && mkdir out

state_of() { scontrol show job "$1" 2> /dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' | head -1; }
code_of() { scontrol show job "$1" | sed -n 's/.*ExitCode=\([0-9]*\):.*/\1/p' | head -1; }
restarts_of() { scontrol show job "$1" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p' | head -1; }
rows_of() { cat "$1/metrics.csv" 2> /dev/null | wc -l; }
has_ended() { case $(state_of "$1") in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY) true ;; *) false ;; esac; }
weights_of() { sed -n 's/.*"weights_sha256": "\(.*\)".*/\1/p' "$1/result.json" 2> /dev/null; }
submit() { sbatch --parsable --output="out/%j.txt" "$@" || kill -TERM $$; }
preempt() {   # kind, job
    case $1 in
        TERM | USR1) scancel --signal="$1" "$2" ;;
        requeue) scontrol requeue "$2" ;;
        power) local node process; node=$(squeue -h -j "$2" -o %N); node=${node#node}; node=${node%%[!0-9]*}
            for process in $(node_tree "${node:-1}"); do kill -KILL "$process" 2> /dev/null; done
            sleep 1; start_node "${node:-1}" ;;
    esac
}
# Preempts a job whenever it has logged something since it was started, at most so many times; waits for its end.
follow() {   # job, run, preemptions, kinds ...
    local job=$1 run=$2 left=$3 kinds=("${@:4}") done=0 rows restarts
    rows=$(rows_of "$run")
    DONE=
    while ! has_ended "$job"; do
        if [ "$done" -lt "$left" ] && [ "$(state_of "$job")" = RUNNING ] && [ "$(rows_of "$run")" -gt "$rows" ]; then
            sleep $((done % 4 * 2))  # some of them in later epochs
            restarts=$(restarts_of "$job")
            preempt "${kinds[$((done % ${#kinds[@]}))]}" "$job"
            DONE="$DONE ${kinds[$((done % ${#kinds[@]}))]}"
            done=$((done + 1))
            for _ in $(seq 90); do has_ended "$job" || [ "$(restarts_of "$job")" != "$restarts" ] && break; sleep 1; done
            rows=$(rows_of "$run")
        fi
        sleep 0.5
    done
    COUNT=$done
}
ended() { echo "$(state_of "$1") $(code_of "$1")"; }
say() { if [ -n "$2" ] && [ "$1" = "$2" ]; then echo yes; else echo "NO: $1, not $2"; touch differs; fi; }
row() { echo "| $1 | $2 | $3 | $4 |" | tee -a table.md; }   # what, preemptions, as it should end, weights
check() {   # what, preemptions, job, end as it should be, run, weights as they should be
    row "$1" "$2" "$(say "$(ended "$3")" "$4") ($4)" "$(say "$(weights_of "$5")" "$6")"
}

RECIPES=$REPOSITORY/configs/slurm
{
    echo "\`scripts/slurm_check.sh\`: $(slurmd -V), two nodes on one machine with $(env -u OMP_NUM_THREADS nproc) cores,"
    echo "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), one thread a process."
    echo
    echo "| what | preemptions | ends as it should (state, exit code) | weights of the uninterrupted run |"
    echo "|---|---|---|---|"
} | tee table.md

whole() {   # number of a --fit: submits it once, not to be interrupted
    local words; read -ra words <<< "${FITS[$1]}"
    [ -f "out/whole$1" ] || RUN=runs/whole$1 submit "$RECIPES/one.sbatch" "${words[@]}" > "out/whole$1"
}
whole_weights() { follow "$(cat "out/whole$1")" "runs/whole$1" 0 TERM; weights_of "runs/whole$1"; }

one() {   # one job, preempted again and again
    local number words job
    for number in "${!FITS[@]}"; do
        read -ra words <<< "${FITS[$number]}"
        whole "$number"
        job=$(RUN=runs/one$number submit "$RECIPES/one.sbatch" "${words[@]}")
        follow "$job" "runs/one$number" "$PREEMPTIONS" TERM USR1 requeue power
        check "one.sbatch ${FITS[$number]}" "$COUNT:$DONE" "$job" "COMPLETED 0" "runs/one$number" "$(whole_weights "$number")"
    done
}

limits() {
    local job
    whole 0
    # SLURM's own signal, which comes up to a minute too early.
    job=$(RUN=runs/limit submit --time="$MINUTES" --signal=USR1@45 "$RECIPES/one.sbatch" "${FIT[@]}")
    follow "$job" runs/limit 0 TERM
    check "one.sbatch, a limit of $MINUTES minutes" "$(restarts_of "$job"), by the limit" "$job" "COMPLETED 0" runs/limit "$(whole_weights 0)"
    # Stopped as soon as it starts: given up after three times.
    job=$(RUN=runs/idle submit "$RECIPES/one.sbatch" "${FIT[@]}")
    while ! has_ended "$job"; do
        [ "$(squeue -h -s -j "$job" -o %i | grep -c '\.0$')" = 1 ] && scancel --signal=USR1 "$job"
        sleep 0.5
    done
    row "one.sbatch, no time for a step" "$(restarts_of "$job"): USR1 at once" \
        "$(say "$(ended "$job") $(restarts_of "$job")" "FAILED 1 3") (FAILED 1)" "none"
    # A mistake is not queued again.
    job=$(RUN=runs/mistake submit "$RECIPES/one.sbatch" "${FIT[@]}" --data.batch_size 0)
    follow "$job" runs/mistake 0 TERM
    row "one.sbatch, a mistake" "$(restarts_of "$job")" \
        "$(say "$(ended "$job") $(restarts_of "$job")" "FAILED 2 0") (FAILED 2)" "none"
}

seeds() {   # an array of which one task is preempted; beside it, fit on a node where jobs are submitted
    local job task
    job=$(RUNS=runs/seeds submit --array=0-2 "$RECIPES/seeds.sbatch" "${FIT[@]}")
    for task in 0 1 2; do
        follow "${job}_$task" "runs/seeds/$task" $((task == 0)) USR1
        python -m ttlightning fit "${FIT[@]}" --seed_everything $task --run "runs/alone/$task" > "out/alone-$task.txt" 2>&1
        check "seeds.sbatch, seed $task" "$COUNT:$DONE" "${job}_$task" "COMPLETED 0" "runs/seeds/$task" \
            "$(weights_of "runs/alone/$task")"
    done
    row "fit without a job, where srun is" 0 \
        "$(say "$(cat out/alone-*.txt | grep -c srun) hints" "0 hints") (no hint at srun)" "as above"
}

nodes() {   # two processes on two nodes
    local job
    follow "$(RUN=runs/two-whole submit --cpus-per-task=1 "$RECIPES/two_nodes.sbatch" "${FIT[@]}")" runs/two-whole 0 TERM
    job=$(RUN=runs/two submit --cpus-per-task=1 "$RECIPES/two_nodes.sbatch" "${FIT[@]}")
    follow "$job" runs/two 4 TERM USR1 requeue power
    check "two_nodes.sbatch" "$COUNT:$DONE" "$job" "COMPLETED 0" runs/two "$(weights_of runs/two-whole)"
}

study() {   # eight runs as one array, two of them preempted, and the same study without SLURM
    local study array code run same=0
    python -c 'import submitit' || { echo "slurm_check: the study needs the extra slurm; leave it out with --only" >&2; touch differs; return; }
    cat > eight.yaml <<END
config: debug.yaml
options: {trainer.max_epochs: 60}
grid: {model.format.init_args.rank: [2, 3, 4, 5]}
seeds: 2
slurm: {timeout_min: 20, cpus_per_task: 1}
END
    python -m ttlightning study eight.yaml --launcher slurm --jobs 4 > out/study.txt 2>&1 &
    study=$!
    for _ in $(seq 600); do
        grep -q submitted out/study.txt && compgen -G "runs/debug+rank-2/*/metrics.csv" > out/begun &&
            compgen -G "runs/debug+rank-3/*/metrics.csv" > out/begun && break
        sleep 1
    done
    array=$(sed -n 's/.*submitted 8 runs as job //p' out/study.txt)
    preempt USR1 "${array}_0"; preempt requeue "${array}_1"
    wait $study; code=$?
    TTLIGHTNING_RUNS=$WORK/local python -m ttlightning study eight.yaml --jobs 2 > out/local.txt 2>&1
    for run in local/debug*/*; do
        [ -n "$(weights_of "$run")" ] && [ "$(weights_of "$run")" = "$(weights_of "runs/${run#local/}")" ] && same=$((same + 1))
    done
    row "study of 8 runs, one array" "$(restarts_of "${array}_0") + $(restarts_of "${array}_1"): USR1 requeue" \
        "$(say "exit code $code" "exit code 0") (exit code 0)" "$(say "$same of 8" "8 of 8") (8 runs)"
}

read -ra FIT <<< "${FITS[0]}"
for part in $PARTS; do
    case $part in one | limits | seeds | nodes | study) $part ;; *) echo "slurm_check: no part is called $part" >&2; finish 2 ;; esac
done

echo | tee -a table.md
echo "$((SECONDS - STARTED)) seconds in all." | tee -a table.md
[ -z "$OUTPUT" ] || cp table.md "$OUTPUT"
[ -f differs ] && { KEEP=1; finish 1; }
finish 0
