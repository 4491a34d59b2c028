"""Redaction rules for identifiers of hardware, addresses, persons and cloud resources."""

import functools
import ipaddress
import re

from runner.record.redaction.public_names import names_no_host, names_no_owner
from runner.record.redaction.rule import ALONE, END, HEX, IS, Rule, assignments, each_alone, grouped

NAMES_OF_USERS = "USER|LOGNAME|USERNAME|SUDO_USER|SLURM_JOB_USER|SLURM_JOB_ACCOUNT|UserId|GroupId"
_USER_KEYS = "user|user_?name|logname|owner"
# A key whose value is a user name.
USER_KEY = re.compile(rf"\A(?:{NAMES_OF_USERS}|{_USER_KEYS})\Z")
# Private networks: numbers in these ranges are addresses regardless of the context.
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
)
_PINNED = re.compile(r"==[ \t]*\Z|[@=]v\Z")
# Four-part versions: cuDNN 9.1.0.70, nvidia-cublas-cu12 12.8.4.1, version 1.2.3.4, libcudnn.so.9.1.0.70.
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version\W{0,3}|\.so\.|-|nvidia-[a-z0-9-]{1,40}[ \t:=]{1,40}"
    r"|(?:cuda|cudnn|cublas|cufft|curand|cusolver|cusparse|cusparselt|cufile|cupti|cutlass|nccl|nvjitlink|nvtx"
    r"|nvshmem|triton|torch)[a-z0-9_-]{0,10}[ \t:=]{0,4})\Z",
    re.IGNORECASE,
)


def _harmless_ipv4(address: str, before: str) -> bool:
    if _PINNED.search(before):
        return True
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        return True  # a part above 255 or with a leading zero: a version, a date
    # Loopback, any-address, masks and multicast do not identify this host.
    if parsed.is_loopback or parsed.is_multicast or address.startswith(("0.", "255.")):
        return True
    return not any(parsed in network for network in _PRIVATE) and bool(_VERSION_BEFORE.search(before))


def _harmless_ipv6(address: str, _before: str) -> bool:
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_unspecified


def _is_zero(found: str, _before: str) -> bool:
    return not re.search(r"[1-9A-Fa-f]", found)


# Device names in tables; a number after them is a GUID, elsewhere it may be a pointer.
_DEVICES = r"(?:mlx[45]|bnxt_re|irdma|hfi1|rocep\w{1,20}|ibp\w{1,20}|qib)_?\d{0,3}"

HARDWARE_RULES = each_alone(
    Rule(
        "[uuid]",
        re.compile(rf"-{HEX}{{4}}-{HEX}{{4}}-"),
        rf"{ALONE}(?:MIG-)?(?:GPU-)?{HEX}{{8}}(?:-{HEX}{{4}}){{3}}-{HEX}{{12}}{END}",
        _is_zero,
    ),
    Rule("[uuid]", "gpu-|mig-", rf"{ALONE}(?:GPU|MIG)-{HEX}{{8}}[0-9A-Fa-f-]{{0,28}}{END}"),
    # systemd's machine id and boot id.
    Rule(
        "[uuid]",
        "-id|_id| id|uuid|-- boot ",
        r"(?:-- Boot |(?i:machine|boot|host|vm|product|system)[-_ ]?(?i:id|uuid)[^\w\n]{0,40}+(?:\r?\n)?[^\w\n]{0,8}+)"
        rf"({HEX}{{32}}{END})",
        shortest=37,
    ),
    Rule(
        "[serial]",
        "serial|s/n|service tag|asset tag",
        rf"(?:(?i:serial)(?i:[ _]?number)?|{ALONE}S/N|(?i:service|asset) [Tt]ag){IS}"
        rf"((?=[A-Za-z-]{{0,40}}+\d)[A-Za-z0-9-]{{6,40}}{END})",
    ),
    Rule(
        "[mac]",
        re.compile(rf"[:-]{HEX}{{2}}[:-]{HEX}{{2}}[:-]{HEX}{{2}}[:-]{HEX}{{2}}(?!{HEX})"),
        rf"{ALONE}(?<![:])(?:{HEX}{{2}}[:-]){{5,31}}{HEX}{{2}}(?![:-]?[0-9A-Za-z])",
    ),
    # Output of InfiniBand tools.
    Rule("[guid]", '"s-|"h-|"r-', rf'(?<=")[SHR]-({HEX}{{16}}{END})'),
    # Sixteen digits that begin with four zeros are a memory address; NCCL's commId is not an adapter.
    Rule(
        "[guid]",
        re.compile(rf"0x{HEX}{{16}}"),
        rf"{ALONE}(?<!commId )(?<!commHash )0x(?!0000){HEX}{{16}}{END}",
    ),
    Rule(
        "[guid]",
        re.compile(rf":{HEX}{{4}}:{HEX}{{4}}:{HEX}{{4}}(?!:)"),
        rf"(?<![0-9A-Za-z:])(?:{HEX}{{4}}:){{3}}{HEX}{{4}}(?![:0-9A-Za-z])",
        _is_zero,
    ),
    Rule(
        "[guid]",
        "guid|mlx4_|mlx5_|bnxt_re|irdma|hfi1_|rocep|ibp",
        rf"(?:(?i:guid){IS}|{ALONE}{_DEVICES}[ \t]{{1,40}})((?:0x)?{HEX}{{16}}{END})",
        _is_zero,
        shortest=20,
    ),
)

IPV6_RULES = each_alone(
    Rule(
        "[ip]",
        re.compile(rf":{HEX}{{0,4}}:{HEX}{{0,4}}:|::"),
        # NCCL writes `remoteGidsfe80::…`.
        rf"(?:(?<![0-9A-Za-z:])|(?<=Gids))(?:(?:{HEX}{{1,4}}:){{7}}{HEX}{{1,4}}"
        rf"|(?:[Ff][Ee][89ABab]{HEX}|[Ff][CDFcdf]{HEX}{{2}}|[23]{HEX}{{3}})(?::{HEX}{{0,4}}){{2,7}})"
        r"(?:%\w{1,15})?(?![0-9A-Za-z:])",
        _harmless_ipv6,
    ),
)
MAIL_AND_IPV4_RULES = each_alone(
    Rule(
        "[user]@[host]",
        "@",
        r"(?<![\w.+-])[A-Za-z_][\w.+-]{1,63}@(?!sha256:[0-9a-f]{64})"
        r"(?:[A-Za-z][\w-]++(?>(?:\.[\w-]++)*)|\d{1,3}(?:\.\d{1,3}){3})",
    ),
    Rule(
        "[ip]",
        re.compile(r"\.\d{1,3}\.\d{1,3}\.\d"),
        r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![0-9]|\.[0-9])",
        _harmless_ipv4,
    ),
)

_NAME = r"[^\s/:\"'<>,;()\[\]=|&*?$\\{}`]"
# A directory of a path; a file name with a known extension is kept.
_FILE = (
    r"(?:py|pyc|so|sh|json|jsonl|ya?ml|toml|cfg|conf|ini|log|txt|out|err|csv|md|pt|pth|bin|safetensors|sif|sqsh"
    r"|c|cc|cpp|cu|h|hpp)"
)
_DIRECTORIES = (
    rf"(?!{_NAME}{{1,200}}\.{_FILE}(?![\w.-])){_NAME}{{1,200}}+(?>(?:/{_NAME}{{1,200}}+(?=/)){{0,30}})"
    rf"(?:/(?!{_NAME}{{1,200}}\.{_FILE}(?![\w.-])){_NAME}{{1,200}}+)?"
)


def _is_no_user(found: str, _before: str) -> bool:
    return found in {"root", "nobody", "null", "none", "user"}


_QUOTED_USER_KEY = rf"(?:(?<=[\"'])|\A)(?:{_USER_KEYS})(?:\\{{0,2}}[\"']:|=)"
# (hint, a phrase that ends where the name begins)
_PHRASES = (
    ("logged in as", r"[Ll]ogged in as:? "),
    ("accepted ", r"\bAccepted (?:publickey|password|hostbased|(?:keyboard|gssapi)-\S{1,40}) for "),
    (
        "user ",
        r"\b(?:opened|closed) for user |\bSession \w{1,8} of [Uu]ser |\bfor invalid user |\bBasic with user '",
    ),
    (" as '", r"\bAuthenticating to \S{1,200} as '"),
    ("sudo: ", r"\bsudo: {1,8}(?=\S{1,80} : (?:TTY=|PWD=|user NOT|command not|\d))"),
    ("id=", r"\b[ug]id=\d{1,10}\("),
    ("@", r"\[(?=[\w.-]{1,80}@\d{4}-\d\d-\d\dT)"),
    ("wandb.ai/", r"://wandb\.ai/(?!api/|authorize|site|settings|docs|home)"),
    # A key of JSON.
    (
        "user",
        rf"{_QUOTED_USER_KEY}[ \t]{{0,4}}\\{{0,2}}[\"'](?=[\w.+-]{{1,80}}\\{{0,2}}[\"'])",
    ),
)
_user = functools.partial(Rule, "[user]")

USER_RULES = (
    grouped(
        *(
            _user(hint, rf"(?:{phrase})((?!\[)[A-Za-z_][\w.+-]{{0,80}}+)", _is_no_user)
            for hint, phrase in _PHRASES
        ),
        _user(
            assignments(NAMES_OF_USERS),
            rf"(?<![A-Za-z0-9_])(?:{NAMES_OF_USERS})=[\"']?((?!root\b|\[user\]|\[redacted\])[^\s\"']+)",
        ),
        _user("/home/|/users/", rf"/(?:home|[Uu]sers)/((?!\w{{1,80}}\.{_FILE}\b){_NAME}+)"),
        # Shared file systems: some part of the path names the owner.
        _user(
            "scratch|/fsx/|/lustre|/gpfs|/beegfs|/weka|/nfs|/efs/|/ceph",
            r"(?:(?<![\w.~/\]-])|(?<=/mnt)|(?<=/local)|(?<=/global)|(?<=/data)|(?<=/raid)|(?<=/nvme))"
            r"/(?:p?scratch\d{0,3}|fsx|lustre\d{0,3}|gpfs\d{0,3}|beegfs|weka(?:fs)?|nfs\d{0,3}|efs|cephfs)/"
            rf"({_DIRECTORIES})",
            unless=names_no_owner,
        ),
        _user("~", r"(?<![\w.~:)\]!^&|/-])~((?!root/)[a-z_][a-z0-9_.-]{1,31}+(?=/\w))"),
        _user("cd ~", r"\bcd ~([a-z_][a-z0-9_.-]{1,31}+)"),
        _user(
            "machine |default ",
            r"\b(?:machine\s{1,20}\S{1,200}|default)\s{1,20}login\s{1,20}"
            r"((?!\[)\S{1,200}+(?=\s{1,20}(?:account|password)\s))",
        ),
        _user(
            "login |--username|ipmitool",
            r"(?:\blogin\b[^\n|;&]{0,200}?[ \t]-u[ \t=]{1,4}|--username[ \t=]{1,4}"
            r"|\bipmitool\b[^\n|;&]{0,200}?[ \t]-U[ \t]{1,4})[\"']?((?!-|AWS\b|\$)[A-Za-z_][\w.@+-]{0,80}+)",
        ),
    ),
)

_STORES = re.compile(r"\b(?i:s3[an]?|gs|gcs|az|azure|abfss?|wasbs?|adl|r2|oss|cosn?|tos|b2|obs|swift)://\Z")


def _is_no_bucket(_found: str, before: str) -> bool:
    return _STORES.search(before) is None


_AWS_IDS = (
    "i|mi|vol|eni|subnet|vpc|sg|ami|snap|fs|fsap|igw|nat|rtb|eipalloc|eipassoc|lt|pcx|acl|tgw|cr|h|r|vpce|pl"
)
_cloud = functools.partial(Rule, "[redacted]")

CLOUD_RULES = (
    *each_alone(
        Rule(
            "[host]",
            re.compile(r"-[0-9a-f]{17}(?![\w-])"),
            rf"(?<![\w.-])(?:{_AWS_IDS})-[0-9a-f]{{17}}(?![\w-])",
            shortest=19,
        )
    ),
    grouped(
        Rule(
            "[host]",
            "instance",
            rf"(?:(?i:instance)[-_ ]?(?i:id)(?:{IS}|[ \t])|/instance/id[^\w\n]{{1,8}})(\d{{15,20}}(?!\d))",
            shortest=24,
        ),
        _cloud("ocid1.", rf"{ALONE}ocid1\.[\w-]{{1,40}}(?>(?:\.[\w-]{{0,80}}+){{2,5}})"),
        _cloud(
            "://",
            r"://((?:\[credentials\]@)?(?!\[|[Bb]ucket[/\s]|BUCKET\b|my-bucket\b|your-bucket\b)[\w.@-]{1,255}+)",
            _is_no_bucket,
        ),
        _cloud(
            "amazonaws.com|googleapis.com|core.windows.net|cloudflarestorage.com|azurecr.io",
            r"(?<![\w.\]-])(?:[\w-]{1,63}\.){1,6}(?:s3(?=[.-])|storage(?=\.googleapis)|(?:blob|dfs|file|queue|table)"
            r"(?=\.core\.windows)|r2(?=\.cloudflare)|dkr(?=\.ecr\.)|azurecr(?=\.io))",
        ),
        _cloud(
            "amazonaws.com/|storage.googleapis.com/|storage.cloud.google.com/",
            r"(?<![\w.\]-])(?:s3[.-][\w.-]{0,60}amazonaws\.com|storage\.(?:googleapis|cloud\.google)\.com)(?::\d{1,5})?/"
            r"([\w.-]{3,63}+)",
        ),
        _cloud(
            "arn:",
            r"\barn:aws[\w-]{0,12}:[\w-]{1,40}:[\w-]{0,30}:((?!\[redacted\]|aws:)[^\s\"'<>,;)\]}\\]+)",
        ),
        _cloud(
            "/resourcegroups/|/virtualmachines/|/storageaccounts/|projects/",
            r"(?:/(?i:resourceGroups|virtualMachines|storageAccounts)/"
            r"|\bprojects/(?=[\w:.-]{1,80}+/(?:zones|regions|locations|global)/)"
            r"|/instances/(?=[\w.-]{1,80}+(?:[\s\"',]|\Z)))([\w.:-]{1,90}+)",
            names_no_host,
        ),
    ),
)
