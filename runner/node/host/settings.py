"""What should be equal on all nodes of a fleet, and is not a fault by itself: versions, firmware, modes, sizes."""

from runner.base.plain import one_line
from runner.node.findings import NodeVerdict, NotRead
from runner.node.host.group import HostGroup
from runner.node.host.settings_reading import SettingsFacts, read_node_settings

# Kernel parameters are the longest.
_LONGEST = 1500


def judge_settings(facts: SettingsFacts) -> NodeVerdict:
    """The settings of one node, without findings: only a comparison of nodes tells which of them differs."""
    settings = {name: one_line(value)[:_LONGEST] for name, value in facts.settings.items() if value.strip()}
    if not settings:
        return NodeVerdict(
            not_read=(NotRead("the settings of this host", "no file of /proc or /sys has any"),)
        )
    return NodeVerdict(
        settings=settings,
        # One that cannot be read is absent, and differs from the majority as such.
        not_read=tuple(NotRead(one.what, one.why, matters=False) for one in facts.not_read),
        finds=False,
        judged=f"{len(settings)} settings, to be compared with those of other nodes; none is a fault by itself",
    )


GROUP = HostGroup("settings", read_node_settings, judge_settings)
