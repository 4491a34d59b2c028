"""Words in the place of a host name that do not identify a private host: loopback, plain words, public names."""

import re

from runner.record.redaction.rule import word_set

# Public hosts of documentation, packages and models, with all their subdomains.
_PUBLIC = word_set(
    "github.com github.io githubusercontent.com gitlab.com gitlab.io bitbucket.org ghcr.io docker.io docker.com "
    "quay.io gcr.io nvcr.io python.org readthedocs.io readthedocs.org anaconda.org "
    "anaconda.com conda.io ubuntu.com redhat.com fedoraproject.org rockylinux.org "
    "kernel.org gnu.org llvm.org freedesktop.org pytorch.org nvidia.com huggingface.co hf.co vllm.ai ray.io "
    "wandb.ai mlflow.org tensorflow.org numpy.org scipy.org scikit-learn.org openai.com anthropic.com mistral.ai "
    "cohere.com x.ai groq.com together.xyz google.com googleapis.com googlesource.com microsoft.com aka.ms "
    "visualstudio.com intel.com amd.com mellanox.com open-mpi.org mpi-forum.org openucx.org schedmd.com "
    "kubernetes.io k8s.io grafana.com prometheus.io sentry.io apache.org arxiv.org wikipedia.org ietf.org w3.org "
    "json-schema.org mozilla.org stackoverflow.com discord.com discordapp.com slack.com telegram.org go.dev "
    "golang.org rust-lang.org modal.com example.com example.org example.net amazon.com "
    "office.com twilio.com sendgrid.com stripe.com notion.so linear.app"
)
# Words of messages and settings that occur in the place of a host name.
_WORDS = word_set(
    "localhost localdomain ip6-localhost host hosts hostname server servers client peer remote address port node "
    "nodes machine master worker head leader root rank ranks endpoint endpoints example none null nil true false "
    "yes no on off any all auto default unknown unset empty undefined self local cluster network internet proxy "
    "socket store the a an this that these those your our their its it each every another other same one two both "
    "is was are were be been has had have does did can cannot could not never will would should must may might and "
    "or but if then when while where which who since because until before after during with without within from "
    "into to in at of for by as per via over under out up down only itself name names id ids list type types count "
    "counts level levels side rank reboot start startup shutdown stop pool pools group groups label labels "
    "failure failures failed fail fails error errors loss exporter problem problems health check checks command "
    "option options invalid missing temporary permission denied usage warning info debug warn fatal critical "
    "notice trace memory cpu gpu gpus device devices pinned pageable driver kernel cuda rocm nccl ib roce "
    "nvlink nvswitch pcie ethernet infiniband fabric switch numa ram disk x86 x86_64 aarch64 arm64 i686 amd64 "
    "linux js key keys session sessions agent "
    "access login connection connections connect config tunnel tunnels daemon "
    "timeout time works service services into access process processes job jobs step steps task tasks scheduler "
    "database db api url uri http https file path value data replica bucket my-bucket your-bucket container "
    "dependencies deltas bytes string str int float bool optional required request response header "
    "headers body model"
)
_ALIAS = re.compile(r"node-[0-9a-f]{6}\Z")
_INDEX = re.compile(r"(?:rank|cuda|numa|task|process|proc|thread|default|trainer)[-_:]?\d{0,4}\Z")
_PREFIXES = ("127.", "x86_64", "aarch64", "arm64", "i686", "sm_")


def names_no_host(found: str, _before: str) -> bool:
    """Whether a word in the place of a host name, or each word of a comma-separated list, is not a host name."""
    return all(_is_no_host(item.partition(":")[0].lower()) for item in found.split(","))


def _is_no_host(name: str) -> bool:
    name = name.strip("[]").rstrip(".-_")
    if name in _WORDS or name.startswith(_PREFIXES) or not re.search(r"[a-z]", name):
        return True
    return _ALIAS.match(name) is not None or _INDEX.match(name) is not None or is_public(name)


def is_public(name: str) -> bool:
    """Whether a lower-case name is a public host or a subdomain of one."""
    parts = name.split(".")
    return any(".".join(parts[start:]) in _PUBLIC for start in range(len(parts) - 1))


# Directories of shared file systems that do not identify a user.
_SHARED_DIRECTORIES = word_set(
    "shared share public common tmp temp data datasets dataset models model checkpoints checkpoint ckpt cache "
    "caches containers images apps software modules lib lib64 bin etc home users user projects project work "
    "scratch logs log runs run results output outputs src build jobs hub huggingface"
)


# Their subdirectories are named after content, seldom after an owner: `/fsx/models/Llama-3.1-8B`.
_COLLECTIONS = frozenset(
    {"models", "model", "datasets", "dataset", "hub", "huggingface", "containers", "images"}
)
_HOMES = frozenset({"home", "homes", "users", "user", "people"})


def names_no_owner(path: str, _before: str) -> bool:
    """Whether a path consists only of shared directories, or begins with a content directory."""
    parts = [part.lower() for part in path.split("/")]
    if parts[0] in _COLLECTIONS and not _HOMES.intersection(parts):
        return True
    return all(part in _SHARED_DIRECTORIES for part in parts)
