"""Redaction rules for host names: first those known by their form, then those of any form, known by their place."""

import functools
import re

from runner.record.redaction.public_names import names_no_host
from runner.record.redaction.rule import (
    ALONE,
    END,
    IS,
    NEXT,
    QUOTE,
    Rule,
    assigned,
    assignments,
    each_alone,
    grouped,
    word_set,
)

NAMES_OF_HOSTS = (
    "HOSTNAME|HOST|MASTER_ADDR|MASTER_HOST|NODE_NAME|NODENAME|SLURM_SUBMIT_HOST|BatchHost|NodeList|NodeName"
    "|NodeHostName|AllocNode:Sid"
)
# Domain suffixes of private networks.
_DOMAINS = r"internal|localdomain|local|corp|cluster|lan|intranet|intra|private|home\.arpa"
# Words after which a number is an index or a measure (`gpu-util-90`), or a count (`multi-node-16`).
_INDEXES = "rank|ranks|id|ids|idx|index|mode|util|mem|memory|count|local|world|list|type|group"
_COUNTS = "multi|single|per|num|two|one|intra|inter|cross|nvidia|cuda|torch|max|min|sm"

FORM_RULES = each_alone(
    Rule(
        "[host]",
        "." + _DOMAINS.replace("|", "|.").replace("\\", ""),
        rf"(?<![\w.-])(?!threading\.)(?:[A-Za-z0-9_][\w-]{{0,62}}+\.){{1,8}}(?:{_DOMAINS})(?![\w(-]|\.\w)",
    ),
    # Every line of NCCL's log begins with the host name.
    Rule(
        "[host]",
        " nccl ",
        r"(?<![\w.\]-])[\w.-]{1,80}+(?=:\d{1,9}:\d{1,9} (?:\[\d{1,3}\] )?(?:[\w./]{1,60}:\d{1,6} )?NCCL )",
    ),
    Rule(
        "[host]",
        assignments(f"{NAMES_OF_HOSTS}|NODELIST|NODENAME"),
        rf"(?<![A-Za-z0-9_])(?:SLURM\w{{0,20}}NODE(?:LIST|NAME)|{NAMES_OF_HOSTS})=[\"']?"
        r"((?!localhost|127\.|\[host\]|\[ip\]|\(null\))[^\s\"']+)",
    ),
    # The summary that torchrun prints of a failure.
    Rule(
        "[host]",
        re.compile(r"host {1,20}: "),
        r"^(?:\[\w{1,20}\]:)?[ \t]{0,16}host {1,20}: ((?!\[|localhost)\S{1,200})",
    ),
    # Typical cluster node names as separate words. Not an index (`gpu0`, `node 3`, `node-rank-0`), not a count
    # (`single-gpu-1`), and not a node alias of this project.
    Rule(
        "[host]",
        re.compile(r"(?:dgx|hgx|node|compute|login|host|rack|nid|gpu|[bh]\d00)[a-z0-9-]{0,20}\d"),
        r"(?<![\w.\[-])"
        rf"((?!node-[0-9a-f]{{6}}(?![\w-]))(?!(?i:\w{{1,12}}-(?:{_INDEXES})|(?:{_COUNTS}))-)"
        r"(?:(?i:dgx|hgx)-?\d{1,5}|(?i:node|compute|login|host|nid)-?\d{2,6}|(?i:gpu)-?0\d{1,4}"
        r"|(?i:gpu|compute|rack|node)-[a-z]{1,12}\d{0,4}-\d{1,5}"
        r"|(?i:[a-z]{1,12}\d{0,4}-)(?i:node|gpu|dgx|hgx|compute|[bh]\d00)-?\d{1,5}"
        r"|(?i:rack)\d{1,4}-(?i:[a-z]{1,8}\d{1,4}))"
        r"(?:\.[A-Za-z][\w-]{0,62}){0,6}(?![\w-]|\.\w))",
    ),
    # Kubernetes pods: the name of a set, its hash, and five characters of the Kubernetes alphabet.
    Rule(
        "[host]",
        re.compile(r"-[0-9a-z]{8,10}-[0-9a-z]{5}(?![\w-])"),
        r"(?<![\w.-])([a-z][a-z0-9]{0,40}+(?:-[a-z0-9]{1,40}+){0,8}?"
        r"-(?=[a-z]{0,9}\d)[bcdf-hj-np-tv-xz0-9]{8,10}-[bcdf-hj-np-tv-xz2-9]{5}(?![\w-]))",
    ),
    # `uname -a`.
    Rule(
        "[host]",
        "linux ",
        r"(?<![A-Za-z])Linux ((?!version\b)[A-Za-z][\w.-]{0,80}+(?= \d{1,2}\.\d{1,3}[.-]))",
    ),
)
IP_HOST_RULES = each_alone(
    Rule("[host]", "ip-", rf"{ALONE}ip-\d{{1,3}}(?:-\d{{1,3}}){{3}}(?:\.[\w-]{{1,63}}){{0,8}}{END}")
)

_SPOKEN_NAMES = (
    "host name|node name|node list|host list|node addr|fqdn|master addr|master host|head node|node ip|node ip address"
    "|submit host|exec host|server host|remote host|client host|batch host|alloc node|slurmctld host|rdzv endpoint"
    "|manager address"
)


def _spellings(name: str) -> set[str]:
    """`hostName`, `HOST_NAME` and so on."""
    words = name.split()
    joined = {
        glue.join(cased)
        for glue in ("", "_")
        for cased in (
            words,
            [word.capitalize() for word in words],
            [words[0], *(word.capitalize() for word in words[1:])],
        )
    }
    plain = {glue.join(words) for glue in ("", "_")}
    return joined | {one.upper() for one in plain} | {one.capitalize() for one in plain}


# Written out for each case: a pattern that begins with literal words is searched much faster.
_SPOKEN = "|".join(
    sorted(
        {spelling for name in _SPOKEN_NAMES.split("|") for spelling in _spellings(name)},
        key=lambda spelling: (-len(spelling), spelling),
    )
)
_SPOKEN_HINT = f"{_SPOKEN_NAMES.replace(' ', '')}|{_SPOKEN_NAMES.replace(' ', '_')}"
# A key whose value is a host name.
HOST_KEY = re.compile(rf"(?:{_SPOKEN})\Z|\A(?:{NAMES_OF_HOSTS}|(?i:host))\Z")

_HOST = r"[A-Za-z0-9][\w-]{0,62}+(?>(?:\.[A-Za-z0-9_][\w-]{0,62}+){0,8})"
# Slurm's `node[01-08]`, and lists with ports.
_ITEM = rf"{_HOST}(?:\[[\d,-]{{1,200}}\][\w.-]{{0,40}}+)?"
_HOSTS = rf"(?>(?:{_ITEM}(?::\d{{1,5}})?,(?=[A-Za-z0-9]))*){_ITEM}"
_LETTERED = rf"(?=[A-Za-z]){_HOSTS}"
_NO_CODE = r"(?![\w(\[{.])"
# Names before a dot in code, and string prefixes.
_OBJECTS = word_set(
    "self cls node host addr args arguments opts options os socket spec config cfg ctx obj env task info request "
    "response sys platform getattr record machine origin str f rf fr b"
)
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_SERVED = re.compile(
    r"(?i:\b(?:https?|wss?|tcp[46]?|udp|grpcs?|rediss?|ray|etcd|zmq|sftp|ftps?|ssh|nfs|ldaps?|mysql|postgres(?:ql)?"
    r"|mongodb(?:\+srv)?|amqps?|kafka|nats|mqtt|otlp))://(?:\[credentials\]@)?\Z"
)


def _names_no_field(found: str, before: str) -> bool:
    return "_" in found or found.partition(".")[0] in _OBJECTS or names_no_host(found, before)


def _names_no_server(found: str, before: str) -> bool:
    return _SERVED.search(before) is None or names_no_host(found, before)


# (hint, a phrase that ends where the name begins)
_PHRASES = (
    ("connect to host ", r"connect to host "),
    ("resolve host", r"esolve host(?:name)?:? "),
    ("failed to connect to ", r"ailed to connect to "),
    ("connection ", r"Connection (?:closed|reset|refused|timed out) by (?:remote host )?"),
    ("added '", r"Permanently added '(?:\[)?"),
    ("of host '", r"authenticity of host '"),
    ("ping ", r"PING (?=[^\s(]{1,200} \()"),
    ("resolving ", r"Resolving (?=[^\s(]{1,200}(?: \(|\.\.\.))"),
    ("lookup ", r"lookup (?=[^\s:]{1,200}+(?: on [\d\[]|: (?:no such|server|i/o|[Tt]emporary)))"),
    ("failure on ", r"failure on "),
    (" not respond", r"odes? (?=\S{1,200} not respond)"),
    # ssh, curl, ping, mounts, systemd and certificates.
    ("uthenticat", r"Authenticating to (?=\S{1,200}:\d)|Authenticated to (?=\S{1,200} \()"),
    ("' is known", r"Host '(?=[^'\n]{1,200}' is known)"),
    ("target host name", r"target host name '"),
    ("last login", r"Last login: [^\n]{1,60} from "),
    ("bytes from ", r"bytes from (?=\S{1,200} \([^)\n]{1,60}\): icmp)"),
    ("onnection to host ", r"onnection to host "),
    (" type ", r"^(?=[^\s:]{1,200}:/\S{0,300} on /\S{0,300} type (?:nfs|ceph|lustre))"),
    ("hostname ", r"(?:Hostname set|Set hostname) to <"),
    ("hostname()", r"gethostname\(\)[^\w\n]{1,8}"),
    ("cn", r"(?:\bCN=|, CN = )(?=[\w-]{1,63}\.\w)"),
    ("sysname:", r"\bSysName:[ \t]{1,20}"),
    # Slurm, torchrun, nccl-tests, Open MPI, UCX, Kubernetes.
    ("node", r"Requested nodes? (?=\S{1,200} not available)|Nodes (?=\S{1,200} are (?:still )?not ready)"),
    ("error: node ", r"error: Node (?=\S{1,200} has )"),
    ("the node '", r"[Tt]he node '(?=[^'\n]{1,200}_\d{1,9}_\d{1,6}')"),
    ("failure ", r"^(?: \.\. )?(?=[\w.-]{1,200}(?: pid \d{1,9})?: Test (?:NCCL |CUDA |MPI )?failure )"),
    (" pid ", r"\bPid {1,8}\d{1,9} on {1,10}(?=\S{1,200} {1,4}device)"),
    ("[", r"^\[(?=[\w.-]{1,200}:\d{1,9}(?:\] (?:\*\*\*|\[ ?\d{1,3}\]|MCW|Signal)|:\d{1,9}:\d{1,9}\]))"),
    ("[", r"^\[\d{9,12}\.\d{1,9}\] \[(?=[\w.-]{1,200}:\d)"),
    ("assigned ", r"Successfully assigned \S{1,300} to "),
    (
        "node",
        r"^[ \t]{0,8}Node:[ \t]{1,20}(?=[^\s/]{1,200}(?:/|[ \t]*$))|\bnode/(?=\S{1,200} (?:un)?cordoned)",
    ),
    (
        "host: ",
        r"(?:Local|local|Remote|remote|Peer|peer|Target|target|Source|source|System|system) [Hh]ost:[ \t]{1,20}",
    ),
)
_TOLD = r"(?=:\d|\.?[ \t]*(?:[\r\n\"'\\]|\Z)|[ \t]\(|[ \t]port\b|[ \t]\[|[ \t](?:closed|refused|reset|timed)|['\"])"

_host = functools.partial(Rule, "[host]", unless=names_no_host)

PLACE_RULES = (
    grouped(
        # Slurm.
        _host(
            "srun: error: |salloc: |slurmd-|slurmstepd-",
            r"(?:srun: error: (?=[^\s:]{1,200}+: tasks? \d)|salloc: Nodes? (?=\S{1,200}+ (?:is|are) ready)"
            rf"|slurm(?:step)?d-(?=[^\s:]{{1,200}}+: ))({_HOSTS})",
        ),
        _host(" on ", rf"\b(?:STEP|JOB|StepId|JobId)[ =]\S{{1,40}} ON ({_HOSTS})"),
        _host(" on ", rf" ON ({_HOSTS}(?= (?:CANCELLED|FAILED|DUE TO)\b))"),
        _host("on node |on host ", rf"(?:\bon node |\bon host (?=[A-Za-z-]{{1,40}}\d))({_LETTERED})"),
        # Options of launchers, and remote shells.
        _host(
            "--rdzv|--master|--host|--node|--dist-init-addr|--head|--address|--server|--exclude",
            r"--(?:rdzv[_-]endpoint|master[_-]addr(?:ess)?|host(?:s|name|list)?|node(?:list|name)?"
            rf"|node-ip-address|dist-init-addr|head(?:-node|-addr)?|address|server|exclude){NEXT}({_HOSTS})",
        ),
        _host(
            "mpirun|mpiexec|pdsh|clush|srun|ipmitool",
            r"\b(?:mpirun|mpiexec|pdsh|clush|srun|prun|ipmitool)\b[^\n|;&]{0,200}?[ \t](?:-H|-w)[ \t=]{1,4}"
            rf"{QUOTE}({_LETTERED})",
        ),
        _host(
            "ssh ",
            r"(?<![\w./-])ssh (?:-[46AaCfGgKkMNnqsTtVvXxYy]{1,8} |-[a-zA-Z] ?[^\s-]\S{0,200} ){0,10}"
            rf"({_LETTERED})",
        ),
        _host("scp |rsync ", rf"\b(?:scp|rsync) [^\n|;&]{{0,200}}?(?<=[ \t])({_LETTERED}(?=:[/~.\w]))"),
        # Messages about connections.
        *(_host(hint, rf"(?:{phrase})({_LETTERED})") for hint, phrase in _PHRASES),
        _host("connect", rf"\b[Cc]onnect(?:ed|ing|ion)? (?:to|from) ({_LETTERED}{_TOLD})"),
        _host(
            "connect|socket|c10d|store|listen",
            r"\b(?:[Cc]onnect\w{0,5}|socket|c10d|\w{0,20}Store|listen\w{0,4})\b[^\n(]{0,200}?\([\"']?"
            rf"({_LETTERED}(?=[\"']?, \d{{4,5}}\)))",
        ),
        # `[name]:29500` of c10d's sockets.
        _host(
            "]:",
            r"(?<=\w )(\[(?!(?:ip|host|user|uuid|token|redacted)\]|(?:rank|default|trainer)\d)(?=[A-Za-z])"
            rf"{_HOST}\](?=:\d{{4,5}}(?!\d)))",
        ),
        # With a port, or with a name without a dot, so not a public web page.
        _host(
            "://",
            rf"://(?:\[credentials\]@)?((?:{_HOST}(?=:\d)|[A-Za-z0-9][\w-]{{0,62}}+(?![\w.:@-])))",
            unless=_names_no_server,
        ),
        # Named fields, in any notation. Code after them is not a name: an attribute, a call, an index, `a_variable`.
        _host(_SPOKEN_HINT, rf"(?:{_SPOKEN}){assigned('=')}({_LETTERED}{_NO_CODE})", unless=_names_no_field),
        # After a colon a sentence may follow.
        _host(
            _SPOKEN_HINT,
            rf"(?:{_SPOKEN}){assigned(':')}({_LETTERED}(?=:\d|\.?[ \t]*(?:[\r\n\"'\\,;)}}]|\Z)))",
            unless=_names_no_field,
        ),
        # Shorter words, only as a field of a header, of JSON, of a Python repr, or of `scontrol`.
        _host(
            "host|nodes=",
            rf"(?:(?<![A-Za-z0-9_-])(?:Host: |host[ ]?=[ ]?[\"']?|(?<=[\"'])[Hh]ost(?:\\{{0,2}}[\"']){IS})"
            rf"|^host(?==){IS}|(?<![A-Za-z0-9_-])Nodes=)({_LETTERED}{_NO_CODE})",
            unless=_names_no_field,
        ),
        _host("instance=", rf"\binstance={QUOTE}({_LETTERED}(?=:\d))"),
        # System logs: a date, the host, the program.
        _host(
            "kernel:|]:|systemd:|sshd:|slurmd:|nvidia-",
            rf"(?:{_MONTH} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{{1,9}})?|\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,]{{0,10}}"
            rf"(?:Z|[+-]\d\d:?\d\d)) ((?=[A-Za-z]){_HOST}"
            r"(?= (?:kernel|[\w./()@-]{1,60}+\[\d{1,9}\]|systemd|sshd|slurmd|nvidia-[a-z-]{1,30}+):))",
        ),
        # Adapter names in the output of InfiniBand tools contain the host name.
        _host("hca-| mlx5_", rf"(?<=[\"'])({_LETTERED}(?= (?:HCA-|mlx5_)\d))"),
        _host(
            "machine ",
            rf"\bmachine\s{{1,20}}({_LETTERED}"
            r"(?=\s{1,20}login\s{1,20}\S{1,200}\s{1,20}(?:account|password)\s))",
        ),
    ),
)
