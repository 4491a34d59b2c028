"""What must not be stored, made up anew in the forms of its issuers, each with the text around it.

Nothing here was ever valid: each character is drawn from a generator with a fixed seed. A form is written in pieces,
so that no scanner of secrets takes this file for a leak.
"""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
ALNUM = string.ascii_letters + string.digits
URL64 = ALNUM + "-_"
BASE64 = ALNUM + "+/"
LOWER = string.ascii_lowercase + string.digits
DIGITS = string.digits

# `{h32}` in a form: 32 characters of that alphabet.
_ALPHABETS = {
    "h": HEX,
    "u": UPPER,
    "a": ALNUM,
    "w": URL64,
    "b": BASE64,
    "l": LOWER,
    "d": DIGITS,
    "c": string.ascii_letters,
}


@dataclass(frozen=True)
class Planted:
    """A text with something in it that may not stay.

    Attributes:
        kind: what it is.
        form: what stands around it.
        text: the whole.
        private: what must be gone.
    """

    kind: str
    form: str
    text: str
    private: tuple[str, ...]


# (kind, beginning, rest): put together only when drawn.
TOKENS = (
    *((f"GitHub {p}", p, "_{a36}") for p in ("ghp", "gho", "ghu", "ghs", "ghr")),
    ("GitHub fine-grained", "github", "_pat_{a22}_{a59}"),
    *((f"GitLab {p}", p, "-{w20}") for p in ("glpat", "gldt", "glrt", "glft", "glsoat", "glffct")),
    ("GitLab job", "glcbt", "-{h2}_{w20}"),
    ("GitLab trigger", "glptt", "-{h40}"),
    ("GitLab mail", "glimt", "-{w25}"),
    ("GitLab agent", "glagent", "-{w50}"),
    ("GitLab routable", "glpat", "-{w27}.01.{l2}{l7}"),
    ("Hugging Face", "hf", "_{c34}"),
    ("Hugging Face organization", "api", "_org_{c34}"),
    ("OpenAI old", "sk", "-{a48}"),
    ("OpenAI project", "sk", "-proj-{w74}"),
    ("OpenAI service account", "sk", "-svcacct-{w58}"),
    ("Anthropic", "sk", "-ant-api03-{w93}AA"),
    ("OpenRouter", "sk", "-or-v1-{h64}"),
    ("Google API", "AI", "za{w35}"),
    ("Google access", "ya29", ".a0{w60}"),
    ("Google client", "GOC", "SPX-{w28}"),
    ("Google refresh", "1/", "/0{w40}"),
    *((f"Slack {p}", f"xox{p}", "-{d12}-{d12}-{a24}") for p in "abeoprs"),
    ("Slack app", "xapp", "-1-{u11}-{d13}-{h64}"),
    ("Slack configuration", "xoxe", ".xoxp-1-{a163}"),
    ("Slack webhook", "hooks.slack", ".com/services/T{u8}/B{u10}/{a24}"),
    ("Discord webhook", "discord", ".com/api/webhooks/{d18}/{w68}"),
    ("Discord bot", "M", "T{w23}.{w6}.{w38}"),
    ("Telegram", "{d9}:A", "AE{w32}"),
    *((f"Vault {p}", p, ".{w95}") for p in ("hvs", "hvr")),
    ("Vault batch", "hvb", ".{w140}"),
    ("Vault old", "s", ".{c11}7{c11}q"),
    *((f"Databricks {p}", p, "{h32}") for p in ("dapi", "dose")),
    ("Groq", "gsk", "_{a52}"),
    ("xAI", "xai", "-{a80}"),
    ("W&B", "wandb", "_v1_{a60}"),
    ("Azure client", "{a3}8", "Q~{a34}"),
    ("Docker personal", "dckr", "_pat_{w27}"),
    ("Docker organization", "dckr", "_oat_{w32}"),
    ("AWS key", "AK", "IA{u16}"),
    ("AWS session", "AS", "IA{u16}"),
    ("npm", "npm", "_{a36}"),
    ("PyPI", "pypi", "-AgEIcHlwaS5vcmc{w120}"),
    *((f"Stripe {p}", p, "_live_{a24}") for p in ("sk", "rk")),
    ("Stripe webhook", "whsec", "_{a32}"),
    ("SendGrid", "SG", ".{w22}.{w43}"),
    ("Twilio", "SK", "{h32}"),
    ("DigitalOcean", "dop", "_v1_{h64}"),
    ("Linear", "lin", "_api_{a40}"),
    ("Notion", "ntn", "_{d11}{a35}"),
    ("Notion old", "secret", "_{a43}"),
    ("Replicate", "r8", "_{a37}"),
    ("Perplexity", "pplx", "-{a48}"),
    ("Fireworks", "fw", "_{a24}"),
    ("Together", "tgp", "_v1_{w43}"),
    ("NVIDIA", "nvapi", "-{w64}"),
    ("Pinecone", "pcsk", "_{a6}_{a63}"),
    ("LangSmith", "lsv2", "_pt_{h32}_{h10}"),
    ("Grafana cloud", "glc", "_{a60}"),
    ("Grafana account", "glsa", "_{a32}_{h8}"),
    ("New Relic", "NR", "AK-{u27}"),
    ("Sentry organization", "sntrys", "_{a60}_{a43}"),
    ("Sentry user", "sntryu", "_{h64}"),
    ("PlanetScale", "pscale", "_tkn_{w43}"),
    ("Terraform Cloud", "{a14}.atlas", "v1.{w67}"),
    ("JFrog key", "AK", "Cp{a69}"),
    ("JFrog reference", "cmV", "md{a59}"),
    ("JWT", "ey", "JhbGciOiJSUzI1NiJ9.eyJ{w60}.{w80}"),
    ("JWE", "ey", "JhbGciOiJkaXIifQ..{w16}.{w60}.{w22}"),
    ("age", "AGE-SECRET", "-KEY-1{u58}"),
    ("Pulumi", "pul", "-{h40}"),
    ("Tailscale", "tskey", "-auth-{a17}-{a32}"),
    ("OpenShift", "sha256", "~{w43}"),
    ("Prefect", "pnu", "_{a36}"),
    ("RunPod", "rpa", "_{u44}"),
    ("Postman", "PM", "AK-{h24}-{h34}"),
    ("Square", "sq0csp", "-{w43}"),
    ("Mailchimp", "{h32}", "-us12"),
)

# Names that give a value away which nothing else does.
SECRETS_BY_NAME = (
    *(("AWS_SECRET_ACCESS_KEY", "{b40}"), ("COHERE_API_KEY", "{a40}"), ("CO_API_KEY", "{a40}")),
    *(
        ("MISTRAL_API_KEY", "{a32}"),
        ("TOGETHER_API_KEY", "{h64}"),
        ("DD_API_KEY", "{h32}"),
        ("DD_APP_KEY", "{h40}"),
    ),
    *(("WANDB_API_KEY", "{h40}"), ("NGC_API_KEY", "{a84}"), ("MYSQL_PWD", "{a9}"), ("REGISTRY_PASS", "{a9}")),
    *(("AZURE_STORAGE_KEY", "{b86}=="), ("AccountKey", "{b86}=="), ("SharedAccessKey", "{b43}=")),
    *(("ARTIFACTORY_AUTH", "{a40}"), ("GITLAB_PAT", "{a26}"), ("client-key-data", "LS0t{b200}=")),
    *(("client-certificate-data", "LS0t{b200}="), ("AWS_SESSION_TOKEN", "{b100}=="), ("_auth", "{b40}=")),
)

# `{x}` is what must be gone; the rest may stay.
_HOSTS = ("gandalf", "frodo.shire.net", "zx81-b")
HOST_PHRASES = (
    "srun: error: {x}: task 0: Exited with exit code 1",
    "srun: error: {x}: tasks 0-7: Killed",
    "srun: error: Node failure on {x}",
    "slurmstepd: error: *** STEP 123.0 ON {x} CANCELLED AT 2026-11-26T10:00:00 ***",
    "slurmstepd: error: *** JOB 123 ON {x} CANCELLED AT 2026-11-26T10:00:00 DUE TO TIME LIMIT ***",
    "slurmstepd-{x}: error: Detected 1 oom_kill event",
    "ssh: connect to host {x} port 22: Connection refused",
    "ssh: Could not resolve hostname {x}: Name or service not known",
    "curl: (7) Failed to connect to {x} port 8000 after 1 ms",
    "Connection to {x} closed.",
    "Connection closed by {x} port 22",
    "Connected to {x}.",
    "Connected to {x} (somewhere) port 8000",
    "Connecting to {x}:8000...",
    "PING {x} (there) 56(84) bytes of data.",
    "Warning: Permanently added '{x}' (ED25519) to the list of known hosts.",
    "dial tcp: lookup {x}: no such host",
    "torchrun --rdzv-endpoint={x}:29400 train.py",
    "torchrun --rdzv_endpoint {x}:29400 train.py",
    "torchrun --master_addr={x} --master_port 29500 train.py",
    "vllm serve --host {x} --port 8000",
    "ray start --address={x}:6379",
    "python -m sglang.launch_server --dist-init-addr {x}:5000 --nnodes 2",
    "mpirun -np 16 -H {x}:8,{x}:8 all_reduce_perf",
    "curl http://{x}:8000/v1/models",
    "init_method=tcp://{x}:29500",
    "grpc://{x}:50051 is down",
    "http://{x}:8265/api/jobs",
    "hostname: {x}",
    "Hostname:   {x}",
    "Static hostname: {x}",
    "Host: {x}",
    "Local host:   {x}",
    'DCGM_FI_DEV_GPU_TEMP{{gpu="0",Hostname="{x}"}} 41',
    'up{{instance="{x}:9400",job="dcgm"}} 0',
    "mpirun noticed that process rank 0 with PID 0 on node {x} exited on signal 9",
    "Task launch for StepId=1.0 failed on node {x}: Invalid job credential",
    "[W1126 10:00:00.1 socket.cpp:752] [c10d] The client socket has failed to connect to [{x}]:29500 (errno: 111)",
    "[c10d] The client socket has timed out after 60000ms while trying to connect to ({x}, 29500).",
    "TCPStore(host={x}, port=29500) failed",
    "HTTPConnectionPool(host='{x}', port=8000): Max retries exceeded",
    "{x}:123:456 [0] NCCL INFO Bootstrap : Using eth0",
    "[2026-11-26 10:00:00] {x}:12345:12399 [3] misc/socket.cc:48 NCCL WARN socketStartConnect failed",
    "ssh {x} nvidia-smi",
    "ssh -p 2222 -o BatchMode=yes {x} uptime",
    "scp out.log {x}:/tmp/",
    "alice@{x}:~$ nvidia-smi",
    "root@{x}:/workspace# ls",
    "nodelist={x}[01-08]",
    "   NodeList={x}",
    "   BatchHost={x}",
    "   ReqNodeList={x},{x} ExcNodeList=(null)",
    "   Nodes={x} CPU_IDs=0-3 Mem=8192 GRES=gpu:8",
    "NodeName={x} Arch=x86_64 CoresPerSocket=56",
    "   NodeAddr={x} NodeHostName={x} Version=24.05.3",
    "  host      : {x}",
    "[0]:  host      : {x}",
    "'NodeManagerHostname': '{x}',",
    "node_ip_address={x}",
    "MASTER_ADDR={x} MASTER_PORT=29500",
    "master_addr: {x}",
    "Nov 26 10:00:00 {x} kernel: NVRM: Xid (PCI:0000:1b:00): 79",
    "Nov  6 10:00:00 {x} slurmd[1234]: launch task",
    "2026-11-26T10:00:00.123456+00:00 {x} kernel: mlx5_core 0000:1b:00.0",
    'Ca : 0x0002c90300a1b2c4 ports 1 "{x} HCA-1"',
    "Linux {x} 5.15.0-124-generic #134-Ubuntu SMP x86_64",
    "nodeName: {x}",
    "machine {x} login bob password opensesame1",
    "debug1: Connecting to {x} [10.1.2.3] port 22.",
    "debug1: Authenticating to {x}:22 as 'root'",
    "debug1: Host '{x}' is known and matches the ED25519 host key.",
    'Authenticated to {x} ([10.1.2.3]:22) using "publickey".',
    "Last login: Thu Nov 26 10:00:00 2026 from {x}",
    "64 bytes from {x} (10.1.2.3): icmp_seq=1",
    "systemd[1]: Set hostname to <{x}>.",
    "SysName:      {x}",
    "SSL: no alternative certificate subject name matches target host name '{x}'",
    "srun: error: Unable to create step for job 12: Requested node {x} not available",
    "srun: error: Nodes {x},{x} are still not ready",
    "slurmctld: error: Node {x} has low real_memory size",
    "The node '{x}_3452_0' has joined round 0 of the rendezvous",
    "#  Rank  0 Group  0 Pid  12345 on {x} device  0 [0x1b] NVIDIA H100",
    "{x}: Test NCCL failure common.cu:1005 'unhandled system error'",
    " .. {x} pid 1234: Test failure common.cu:891",
    "[{x}:12345] *** Process received signal ***",
    "[{x}:12345:0:12346] Caught signal 11 (Segmentation fault)",
    "[1732442400.123456] [{x}:1234 :0]  ib_mlx5_log.c:177  UCX  ERROR Transport retry count exceeded",
    "Node:             {x}/10.2.0.7",
    "Normal  Scheduled  10s  default-scheduler  Successfully assigned default/trainer-0 to {x}",
    "{x}:/export/home on /home type nfs4 (rw,vers=4.2)",
    "Command '['torchrun', '--master_addr', '{x}', 'train.py']' returned non-zero exit status 1.",
    "ipmitool -I lanplus -H {x} -U ADMIN power status",
)
_USERS = ("frodob", "j.doe", "x-stranger2")
USER_PHRASES = (
    *("/home/{x}/run.py", "/scratch/{x}/run", "/scratch/{x}", "/mnt/scratch/{x}/a/b.log", "/users/{x}/x"),
    *("/data/users/{x}/ckpt", "/fsx/{x}/train.py", "/lustre/fs1/projects/{x}/run.sh", "/lustre/{x}"),
    *(
        "/mnt/nfs/home/{x}/venv/bin/python",
        "/lustre/fsw/{x}/logs/a.out",
        "/gpfs/work/{x}",
        "cd ~{x}",
        "~{x}/bin",
    ),
    *(
        "UserId={x}(1000) GroupId={x}(50)",
        "USER={x}",
        "docker login -u {x} nvcr.io",
        "write to {x}@shire.net now",
    ),
    *("wandb: Currently logged in as: {x} (a-team)", "View run at https://wandb.ai/{x}/project/runs/a1"),
    *("Accepted publickey for {x} from 10.4.4.4 port 51122 ssh2", "session opened for user {x}(uid=1001)"),
    *("systemd[1]: Started Session 4 of user {x}.", "sudo: {x} : TTY=pts/0 ; USER=root", "uid=1001({x})"),
    *("debug1: Authenticating to gandalf7:22 as '{x}'", "Reason=gone [{x}@2026-11-26T10:00:00]"),
    *("Server auth using Basic with user '{x}'", "{{'username': '{x}'}}"),
    *("machine api.wandb.ai login {x} password opensesame1", "az acr login --username {x}"),
)
SECRET_PHRASES = (
    *(
        "docker login -u bob -p {x} nvcr.io",
        "docker login --password {x}",
        "echo done; sshpass -p {x} ssh gandalf",
    ),
    *(
        "curl -u bob:{x} https://example.org/",
        "curl -s --user bob:{x} https://example.org/",
        "mysql -u root -p{x} db",
    ),
    *("redis-cli -h localhost -a {x} ping", "ipmitool -I lanplus -U ADMIN -P {x} power status"),
    *("machine api.wandb.ai login user password {x}", "machine api.wandb.ai\n  login user\n  password {x}"),
    *("https://bob:{x}@example.org/", "Authorization: Bearer {x}", "Authorization: Basic {x}"),
    *(
        "Cookie: session={x}; theme=dark",
        "Set-Cookie: a=b; sid={x}; HttpOnly",
        '{{"auths": {{"x": {{"auth": "{x}"}}}}}}',
    ),
    *("https://example.org/a?sv=2024-11-04&sig={x}&se=2026", "https://example.org/a?X-Amz-Signature={x}"),
    *("https://example.org/a?X-Amz-Security-Token={x}&X-Amz-Expires=60", "AWS Secret Access Key [None]: {x}"),
    *("SharedAccessSignature sr=x&sig={x}&skn=y", "Server=db;Uid=bob;Pwd={x};", "  client-key-data: {x}"),
    *("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={x};EndpointSuffix=x", "    token: {x}"),
    *("['vllm', 'serve', '--api-key', '{x}']", '["--password", "{x}"]', "['curl', '-u', 'bob:{x}', 'x']"),
    *("non-default args: {{'api_key': ['{x}'], 'model': 'x'}}", "Command '['mysql', '-p{x}']' failed"),
    *("- name: DB_PASSWORD\n  value: {x}", '{{"name": "DB_PASSWORD", "value": "{x}"}}'),
    *("SENTRY_DSN=https://{x}@o1.ingest.sentry.io/2", "--hf-token {x}", "x-api-key: {x}", "_authToken={x}"),
)
# (kind, phrase, form of what must be gone)
IDENTITY_PHRASES = (
    ("machine-id", "Machine ID: {x}", "{h32}"),
    ("machine-id", "/etc/machine-id:{x}", "{h32}"),
    ("machine-id", "$ cat /etc/machine-id\n{x}", "{h32}"),
    ("machine-id", "machine_id={x}", "{h32}"),
    ("boot id", "Boot ID: {x}", "{h32}"),
    ("boot id", "-- Boot {x} --", "{h32}"),
    ("API key", "wandb.login(key='{x}')", "{h40}"),
    ("serial", "Service Tag: {x}", "J7{u4}L9"),
    ("GUID", 'Switch 41 "S-{x}" # enhanced port 0', "b8{h14}"),
    ("address", "vendor err 129 localGid :: remoteGids{x}", "fe80::{h4}:{h4}:12:ab34"),
    ("GUID", "Node GUID: {x}", "0xb8{h14}"),
    ("GUID", "port 1 {x} up", "0xb8{h14}"),
    ("GUID", "sees {x} twice", "b8{h2}:{h4}:{h4}:{h4}"),
    ("GUID", "    mlx5_0          \t{x}", "b8{h14}"),
    ("GUID", "node_guid: {x}", "b8{h14}"),
    ("EC2", "on {x} since", "i-0{h16}"),
    ("EC2", "volume {x}", "vol-0{h16}"),
    ("GCE", "instance-id: {x}", "4{d18}"),
    ("GCE", "instance_id={x}", "4{d18}"),
    ("Azure", '"vmId": "{x}"', "{h8}-{h4}-4{h3}-a{h3}-{h12}"),
    ("OCI", "in {x} now", "ocid1.instance.oc1.phx.{l60}"),
    ("ARN", "role arn:aws:iam::{x} denied", "{d12}:role/{l9}"),
    ("ARN", "arn:aws:s3:::{x}", "{l9}/{l8}"),
    ("pod", "pod {x} evicted", "vllm-{l5}-7d9c8b6f5d-x2x8z"),
    *(("bucket", f"{s}://{{x}}/ckpt/step-10", "b{l12}") for s in ("s3", "gs", "az", "r2", "s3a", "oss")),
    *(("bucket", f"{s}://data@{{x}}.dfs.core.windows.net/a", "b{l12}") for s in ("abfss", "wasbs")),
    ("bucket", "https://{x}.s3.us-east-1.amazonaws.com/k", "b{l12}"),
    ("bucket", "https://s3.us-east-1.amazonaws.com/{x}/k", "b{l12}"),
    ("bucket", "https://storage.googleapis.com/{x}/k", "b{l12}"),
    ("bucket", "https://{x}.blob.core.windows.net/c/k", "b{l12}"),
    ("account", "{x}.dkr.ecr.us-east-1.amazonaws.com/image:1", "{d12}"),
    ("project", "projects/{x}/zones/us-east1-b", "p{l9}"),
)
KEYS = ("RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "PGP PRIVATE KEY BLOCK")

# What may stand around a value.
_VALUE_FORMS = {
    "bare": "{}",
    "NAME=value": "RESULT={}",
    "JSON": '{{"result": "{}", "n": 1}}',
    "URL": "https://example.org/p?a={}&b=1",
    "end of a sentence": "It printed {}.",
    "quoted": "got '{}' here",
}
_NAME_FORMS = {
    "bare": "{}={}",
    "export": "export {}='{}'",
    "JSON": '{{"n": 1, "{}": "{}"}}',
    "YAML": "  {}: {}",
    "option of docker": "docker run -e {}={} image",
    "JSON in a string": '{{\\"{}\\": \\"{}\\"}}',
}
_PHRASE_FORMS = {
    "bare": "{}",
    "line of many": "before\n{}\nafter",
    "Python log": "[rank0]: {}",
    "JSON": '{{"message": "{}"}}',
    "quoted": "it said '{}'",
}
# Positions at the beginning of a line: anything before them makes them something else.
_AT_LINE_START = (
    *("  host  ", "[0]:  host", "'Node", "Node: ", "{x}: Test", " .. {x}", "{x}:/", "[{x}:", "[1732442400"),
)


def filled(form: str, draw: random.Random) -> str:
    """The form with characters of the alphabets that it names."""
    kinds = string.Formatter().parse(form)
    return "".join(
        text + ("".join(draw.choices(_ALPHABETS[field[0]], k=int(field[1:]))) if field else "")
        for text, field, _, _ in kinds
    )


def planted() -> Iterator[Planted]:
    """Every kind in every form that may be around it."""
    draw = random.Random(20_261_126)
    yield from _tokens(draw)
    yield from _named(draw)
    yield from _names("host", HOST_PHRASES, _HOSTS)
    yield from _names("user", USER_PHRASES, _USERS)
    for phrase in SECRET_PHRASES:
        yield from _in_phrase("secret by place", phrase, "{a9}7Qz{a12}", draw)
    for kind, phrase, of in IDENTITY_PHRASES:
        yield from _in_phrase(kind, phrase, of, draw)
    yield from _private_keys(draw)


def _tokens(draw: random.Random) -> Iterator[Planted]:
    for kind, beginning, rest in TOKENS:
        for form, around in _VALUE_FORMS.items():
            value = filled(beginning + rest, draw)
            yield Planted(kind, form, around.format(value), (value, value[-12:]))


def _named(draw: random.Random) -> Iterator[Planted]:
    for name, of in SECRETS_BY_NAME:
        for form, around in _NAME_FORMS.items():
            value = filled(of, draw)
            yield Planted(name, form, around.format(name, value), (value, value[-9:]))


def _names(kind: str, phrases: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Planted]:
    for phrase in phrases:
        for number, (form, around) in enumerate(_PHRASE_FORMS.items()):
            name = names[number % len(names)]
            if form in {"bare", "line of many"} or not phrase.startswith(_AT_LINE_START):
                yield Planted(kind, form, around.format(phrase.format(x=name)), (name,))


def _in_phrase(kind: str, phrase: str, of: str, draw: random.Random) -> Iterator[Planted]:
    for form, around in _PHRASE_FORMS.items():
        value = filled(of, draw)
        yield Planted(kind, form, around.format(phrase.format(x=value)), (value, value[-8:]))


def _private_keys(draw: random.Random) -> Iterator[Planted]:
    dashes = "-" * 5
    for kind in KEYS:
        for form, glue in (("lines", "\n"), ("escaped lines", "\\n"), ("CRLF", "\r\n")):
            lines = [filled("{b64}", draw) for _ in range(12)]
            block = glue.join((f"{dashes}BEGIN {kind}{dashes}", *lines, f"{dashes}END {kind}{dashes}"))
            yield Planted(kind, form, f"key:{glue}{block}{glue}after", tuple(lines))
