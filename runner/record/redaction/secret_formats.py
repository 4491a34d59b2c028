"""Secrets that are recognised by their form, as a table: issuer, prefix and pattern.

A run of characters matches at any length above a minimum, so that longer future forms match too and the pattern takes
linear time.
"""

import re
from collections.abc import Sequence

from runner.record.redaction.rule import ALONE, END, HEX, Group, Rule, each_alone, grouped

_W = r"[\w-]"
_AN = "[A-Za-z0-9]"

# (issuers, hint, form of the whole secret)
FORMATS = (
    # Code, packages and images.
    ("GitHub", "ghp_|gho_|ghu_|ghs_|ghr_|github_pat_", r"gh[pousr]_\w{16,}+|github_pat_\w{16,}+"),
    (
        "GitLab",
        "glpat-|gldt-|glrt-|glrtr-|glcbt-|glptt-|glft-|glsoat-|glimt-|glagent-|glffct-|gloas-",
        rf"gl(?:pat|dt|rtr?|cbt|ptt|ft|soat|imt|agent|ffct|oas)-{_W}{{16,}}+(?>(?:\.[0-9a-z]{{2,9}}+){{0,2}})",
    ),
    ("GitLab, runners", "gr1348941", rf"GR1348941{_W}{{16,}}+"),
    ("npm", "npm_", r"npm_\w{16,}+"),
    ("PyPI", "pypi-", rf"pypi-{_W}{{16,}}+"),
    ("RubyGems, Clojars", "rubygems_|clojars_", rf"(?:rubygems|CLOJARS)_{_AN}{{40,}}+"),
    ("Docker", "dckr_", rf"dckr_[a-z]{{2,6}}_{_W}{{16,}}+"),
    ("JFrog", "akc|cmvmd", rf"AKC{_AN}{{24,}}+|cmVmd{_AN}{{40,}}+"),
    ("Sourcegraph", "sgp_", r"sgp_\w{32,}+"),
    ("CI services", "ccipat_|bkua_", r"(?:CCIPAT|bkua)_\w{24,}+"),
    ("Postman", "pmak-", rf"PMAK-{HEX}{{24}}-{HEX}{{24,}}+"),
    # Models and experiments.
    ("Hugging Face", "hf_|api_org_", r"(?:hf|api_org)_\w{16,}+"),
    (
        "OpenAI, Anthropic and others of the same form",
        "sk-|csk-|tvly-|llx-",
        rf"(?:c?sk|tvly|llx)-{_W}{{16,}}+",
    ),
    ("NVIDIA", "nvapi-", rf"nvapi-{_W}{{16,}}+"),
    ("Groq, xAI, Perplexity", "gsk_|xai-|pplx-", rf"gsk_\w{{20,}}+|(?:xai|pplx)-{_W}{{20,}}+"),
    ("Weights & Biases", "wandb_v1_", rf"wandb_v1_{_W}{{20,}}+"),
    ("Replicate, Fireworks, RunPod", "r8_|fw_|rpa_", rf"(?:r8|fw|rpa)_{_AN}{{20,}}+"),
    ("Together", "tgp_v1_", rf"tgp_v1_{_W}{{20,}}+"),
    ("Pinecone, Jina", "pcsk_|jina_", r"(?:pcsk|jina)_\w{24,}+"),
    ("LangSmith", "lsv2_|ls__", r"lsv2_\w{24,}+|ls__\w{24,}+"),
    ("Prefect", "pnu_|pnb_", rf"pn[ub]_{_AN}{{24,}}+"),
    # Clouds.
    (
        "AWS, ids of keys",
        "akia|asia|abia|acca|a3t",
        rf"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{{16}}{END}",
    ),
    ("AWS Bedrock", "absk|bedrock-api-key-", r"ABSK[A-Za-z0-9+/]{60,}+={0,2}|bedrock-api-key-[\w+/=-]{16,}+"),
    ("Google, API", "aiza", rf"AIza{_W}{{30,}}+"),
    ("Google, OAuth", "ya29.|gocspx-", rf"ya29\.{_W}{{16,}}+(?>(?:\.{_W}++)*)|GOCSPX-{_W}{{20,}}+"),
    ("Google, refresh", "1//0", rf"1//0{_W}{{20,}}+"),
    ("Azure, secrets of applications", "q~", r"[\w~.]{3}\dQ~[\w~.-]{28,}+"),
    ("Azure, AI services", "jqqj9", rf"{_AN}{{52}}JQQJ9{_AN}{{20,}}+"),
    ("Azure, storage", "+ast", r"[A-Za-z0-9+/]{76}\+ASt[A-Za-z0-9+/]{6,}+={0,2}"),
    ("Databricks", "dapi|dose|dkea", rf"(?:dapi|dose|dkea){HEX}{{32}}(?:-\d)?{END}"),
    ("DigitalOcean", "do_v1_|dop_v1_|doo_v1_|dor_v1_", rf"do[opr]?_v1_{HEX}{{32,}}+"),
    ("Heroku", "hrku-", rf"HRKU-{_W}{{30,}}+"),
    ("Fly", "fo1_|fm1a_|fm1r_|fm2_", rf"fo1_{_W}{{40,}}+|fm(?:1[ar]|2)_[A-Za-z0-9+/]{{60,}}+={{0,3}}"),
    ("Cloudflare", "v1.0-", rf"v1\.0-{HEX}{{24}}-{HEX}{{100,}}+"),
    ("Supabase, Netlify", "sbp_|nfp_", rf"(?:sbp|nfp)_{_AN}{{32,}}+"),
    ("Lambda Labs", "secret_", rf"secret_[\w-]{{1,40}}_{_AN}{{32}}\.{_AN}{{32,}}+"),
    # Machines, networks and monitoring.
    ("Vault", "hvs.|hvb.|hvr.", rf"hv[sbr]\.{_W}{{20,}}+(?:\.{_W}++)?"),
    ("Terraform Cloud", ".atlasv1.", rf"{_AN}{{14}}\.atlasv1\.[\w=-]{{40,}}+"),
    ("Pulumi", "pul-", rf"pul-{HEX}{{40}}{END}"),
    ("Doppler", "dp.", rf"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[\w-]{{1,40}}\.)?{_AN}{{40,}}+"),
    ("Tailscale", "tskey-", rf"tskey-{_W}{{16,}}+"),
    ("OpenShift", "sha256~", rf"sha256~{_W}{{40,}}+"),
    ("age", "age-secret-key-", r"AGE-SECRET-KEY-1[A-Z0-9]{50,}+"),
    (
        "1Password",
        "ops_eyj|a3-",
        rf"ops_eyJ[\w+/=-]{{60,}}+|A3-[A-Z0-9]{{6}}-(?:[A-Z0-9]{{5,11}}-){{3,4}}[A-Z0-9]{{5}}{END}",
    ),
    ("Grafana", "glc_|glsa_", rf"glc_[A-Za-z0-9+/]{{32,}}+={{0,3}}|glsa_{_AN}{{32}}_{HEX}{{8}}"),
    ("New Relic", "nrak-|nrjs-|nrii-|nral", rf"NR(?:AK|JS|II)-{_W}{{16,}}+|{HEX}{{30,40}}NRAL"),
    ("Sentry", "sntrys_|sntryu_", r"sntry[su]_[\w+/=-]{32,}+"),
    ("PlanetScale", "pscale_", r"pscale_[a-z]{2,8}_[\w=.-]{32,}+"),
    ("Dynatrace", "dt0c01.", rf"dt0c01\.{_AN}{{24}}\.{_AN}{{64}}"),
    # Messages, mail, tickets and payment.
    ("Slack", "xox|xapp-", rf"(?:xoxe\.)?xox[a-z]-{_W}{{10,}}+|xapp-{_W}{{10,}}+"),
    ("Slack, webhooks", "hooks.slack.com", r"hooks\.slack\.com/[a-z]{4,20}/[\w+/-]{20,}+"),
    ("Discord, webhooks", "/api/webhooks/", rf"discord(?:app)?\.com/api/webhooks/\d{{10,20}}/{_W}{{40,}}+"),
    ("Teams, webhooks", ".webhook.office.com", r"[\w-]{1,63}\.webhook\.office\.com/[\w@/-]{40,}+"),
    ("Linear", "lin_api_|lin_oauth_", rf"lin_(?:api|oauth)_{_AN}{{32,}}+"),
    ("Notion", "ntn_|secret_", rf"(?:ntn|secret)_{_AN}{{40,}}+"),
    ("Atlassian", "atatt3", r"ATATT3[\w=-]{60,}+"),
    (
        "Stripe",
        "k_live_|k_test_|k_prod_|whsec_",
        rf"[prs]k_(?:live|test|prod)_{_AN}{{10,}}+|whsec_[\w+/=]{{24,}}+",
    ),
    ("SendGrid", "sg.", rf"SG\.{_W}{{16,}}+\.{_W}{{20,}}+"),
    ("Brevo", "xkeysib-", rf"xkeysib-{HEX}{{40,}}+-{_AN}{{10,}}+"),
    ("Mailchimp, Mailgun", "-us|key-", rf"[0-9a-z]{{32}}-us\d{{1,2}}{END}|key-{HEX}{{32}}{END}"),
    ("Shopify", "shpat_|shpca_|shppa_|shpss_", rf"shp(?:at|ca|pa|ss)_{HEX}{{32}}"),
    ("Alibaba, Yandex", "ltai|aqvn", rf"LTAI{_AN}{{16,}}+|AQVN{_W}{{30,}}+"),
    ("ClickHouse", "4b1d", rf"4b1d{_AN}{{38}}{END}"),
    ("EasyPost, Facebook", "ezak|eztk|eaam|eaac", rf"EZ[AT]K{_AN}{{40,}}+|EAA[MC]{_AN}{{80,}}+"),
    ("Harness", "pat.|sat.", rf"(?:pat|sat)\.{_W}{{22}}\.{_AN}{{24}}\.{_AN}{{20,}}+"),
    (
        "Adobe, Frame.io, Infracost, Scalingo, 42",
        "p8e-|fio-u-|ico-|tk-us-|s-s4t2",
        rf"p8e-{_AN}{{32}}|fio-u-[\w=-]{{40,}}+|ico-{_AN}{{32}}|tk-us-{_W}{{32,}}+|s-s4t2(?:ud|af)-{HEX}{{40,}}+",
    ),
    ("Octopus", "api-", rf"API-[A-Z0-9]{{26}}{END}"),
    (
        "ReadMe, SettleMint, Shippo, Typeform, Duffel",
        "rdme_|sm_aat_|sm_pat_|sm_sat_|shippo_|tfp_|duffel_",
        rf"rdme_{_AN}{{40,}}+|sm_[aps]at_{_AN}{{16,}}+|(?:shippo|duffel)_(?:live|test)_[\w=-]{{32,}}+|tfp_[\w=.-]{{40,}}+",
    ),
    ("MaxMind", "_mmk", rf"{_AN}{{6}}_{_AN}{{29}}_mmk{END}"),
    (
        "Authress",
        ".acc-|.acc_",
        r"[a-z]{2,10}_[A-Za-z0-9]{5,30}\.\w{4,6}\.acc[_-][\w-]{10,32}\.[\w+/=-]{30,}+",
    ),
    ("Square", "sq0", rf"sq0[a-z]{{3}}-{_W}{{22,}}+"),
)

# A part of a human-readable name: `hub`, `Model`, `GPU`, `v2`, `2026`.
_WORD = re.compile(r"[A-Z]?[a-z]{0,15}|[A-Z]{1,15}|[a-z]{1,12}\d{1,3}|\d{1,4}")
_GLUE = re.compile(r"[-_.~/:]+")


def reads_as_words(secret: str, _before: str) -> bool:
    """Whether text of the form of a secret consists only of words, such as `sk-learn-extended-tests`."""
    return all(_WORD.fullmatch(part) for part in _GLUE.split(secret))


def _formats_with(mark: str) -> Group:
    """One rule, tried where the mark is, for all formats with it in their hints: many rules would be slower."""
    forms = {hint: form for _, hint, form in FORMATS if mark == _mark(hint.split("|"))}
    rule = Rule(
        "[token]", "|".join(forms), rf"{ALONE}(?:{'|'.join(forms.values())})", reads_as_words, shortest=18
    )
    return ((mark,), (rule,)) if mark else grouped(rule)


def _mark(hints: Sequence[str]) -> str:
    return next((mark for mark in "_-." if all(mark in hint for hint in hints)), "")


FORMAT_RULES: tuple[Group, ...] = (
    *each_alone(
        Rule(
            "[token]",
            "eyj",
            # JWTs: signed, encrypted (five parts), and plain base64 JSON, as stored by Docker and Grafana.
            r"\beyJ(?:[\w-]{8,}+(?>(?:\.[\w-]*+){2,4})|[\w+/-]{60,}+={0,2})",
            shortest=20,
        )
    ),
    *(_formats_with(mark) for mark in ("_", "-", ".", "")),
    *each_alone(
        # Old tokens of Vault and Twilio, and of Discord bots, have such short prefixes that the whole form is the hint.
        Rule(
            "[token]",
            "s.",
            rf"(?<![\w.-])s\.(?=[A-Za-z]{{0,23}}\d)(?=[a-z0-9]{{0,23}}[A-Z])(?=[A-Z0-9]{{0,23}}[a-z]){_AN}{{24}}{END}",
            shortest=26,
        ),
        Rule("[token]", "sk|ac", rf"{ALONE}(?:SK|AC)[0-9a-z]{{32}}{END}", reads_as_words, shortest=34),
        Rule(
            "[token]",
            re.compile(rf"\.{_W}{{6}}\.{_W}{{27}}"),
            rf"{ALONE}[MNO]{_W}{{23,27}}\.{_W}{{6}}\.{_W}{{27,}}+",
            reads_as_words,
            shortest=60,
        ),
        # Telegram bots.
        Rule(
            "[token]",
            re.compile(r"\d:[\w-]{35}"),
            rf"{ALONE}\d{{8,10}}:{_W}{{35}}(?!{_W})",
            reads_as_words,
            shortest=44,
        ),
    ),
)
