"""Redaction rules for host names that are recognised by their form, and after `HOSTNAME=` and in NCCL's log."""

import re

from runner.record.redaction.rule import ALONE, END, Rule

NAMES_OF_HOSTS = (
    *("HOSTNAME", "HOST", "MASTER_ADDR", "MASTER_HOST", "NODE_NAME", "NODENAME", "SLURM_SUBMIT_HOST"),
    *("BatchHost", "NodeList", "NodeName", "NodeHostName", "AllocNode:Sid"),
)
# Domain suffixes of private networks.
_DOMAINS = (
    *(
        "internal",
        "localdomain",
        "local",
        "corp",
        "cluster",
        "lan",
        "intranet",
        "intra",
        "private",
        "home.arpa",
    ),
)
# Words after which a number is an index or a measure (`gpu-util-90`), or a count (`multi-node-16`).
_INDEXES = "rank|ranks|id|ids|idx|index|mode|util|mem|memory|count|local|world|list|type|group"
_COUNTS = "multi|single|per|num|two|one|intra|inter|cross|nvidia|cuda|torch|max|min|sm"

FORM_RULES = (
    Rule(
        tuple(f".{domain}" for domain in _DOMAINS),
        "[host]",
        "",
        rf"(?<![\w.-])(?!threading\.)(?:[A-Za-z0-9_][\w-]{{0,62}}+\.){{1,8}}(?:{'|'.join(map(re.escape, _DOMAINS))})"
        r"(?![\w(-]|\.\w)",
    ),
    # Every line of NCCL's log begins with the host name.
    Rule(
        (" nccl ",),
        "[host]",
        "",
        r"(?<![\w.\]-])[\w.-]{1,80}+(?=:\d{1,9}:\d{1,9} (?:\[\d{1,3}\] )?(?:[\w./]{1,60}:\d{1,6} )?NCCL )",
    ),
    Rule(
        tuple(f"{name.lower()}=" for name in (*NAMES_OF_HOSTS, "NODELIST", "NODENAME")),
        "[host]",
        rf"(?<![A-Za-z0-9_])(?:SLURM\w{{0,20}}NODE(?:LIST|NAME)|{'|'.join(NAMES_OF_HOSTS)})=[\"']?",
        r"(?!localhost|127\.|\[host\]|\[ip\]|\(null\))[^\s\"']+",
    ),
    # The summary that torchrun prints of a failure.
    Rule(
        re.compile(r"host {1,20}: "),
        "[host]",
        r"^(?:\[\w{1,20}\]:)?[ \t]{0,16}host {1,20}: ",
        r"(?!\[|localhost)\S{1,200}",
    ),
    # Typical cluster node names as separate words. Not an index (`gpu0`, `node 3`, `node-rank-0`), not a count
    # (`single-gpu-1`), and not a node alias of this project.
    Rule(
        re.compile(r"(?:dgx|hgx|node|compute|login|host|rack|nid|gpu|[bh]\d00)[a-z0-9-]{0,20}\d"),
        "[host]",
        r"(?<![\w.\[-])",
        rf"(?!node-[0-9a-f]{{6}}(?![\w-]))(?!(?i:\w{{1,12}}-(?:{_INDEXES})|(?:{_COUNTS}))-)"
        r"(?:(?i:dgx|hgx)-?\d{1,5}|(?i:node|compute|login|host|nid)-?\d{2,6}|(?i:gpu)-?0\d{1,4}"
        r"|(?i:gpu|compute|rack|node)-[a-z]{1,12}\d{0,4}-\d{1,5}"
        r"|(?i:[a-z]{1,12}\d{0,4}-)(?i:node|gpu|dgx|hgx|compute|[bh]\d00)-?\d{1,5}"
        r"|(?i:rack)\d{1,4}-(?i:[a-z]{1,8}\d{1,4}))"
        r"(?:\.[A-Za-z][\w-]{0,62}){0,6}(?![\w-]|\.\w)",
    ),
    # Kubernetes pods: the name of a set, its hash, and five characters of the Kubernetes alphabet.
    Rule(
        re.compile(r"-[0-9a-z]{8,10}-[0-9a-z]{5}(?![\w-])"),
        "[host]",
        r"(?<![\w.-])",
        r"[a-z][a-z0-9]{0,40}+(?:-[a-z0-9]{1,40}+){0,8}?"
        r"-(?=[a-z]{0,9}\d)[bcdf-hj-np-tv-xz0-9]{8,10}-[bcdf-hj-np-tv-xz2-9]{5}(?![\w-])",
    ),
    # `uname -a`.
    Rule(
        ("linux ",),
        "[host]",
        r"(?<![A-Za-z])Linux ",
        r"(?!version\b)[A-Za-z][\w.-]{0,80}+(?= \d{1,2}\.\d{1,3}[.-])",
    ),
)
IP_HOST = Rule(
    ("ip-",), "[host]", "", rf"{ALONE}ip-\d{{1,3}}(?:-\d{{1,3}}){{3}}(?:\.[\w-]{{1,63}}){{0,8}}{END}"
)
