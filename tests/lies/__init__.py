"""Ways to falsify a record, by name, and which of them no gate can know of."""

from tests.lies import aboutmachines, aboutnumbers, aboutruns, aboutsteps  # noqa: F401 - each lists its own
from tests.lies.told import LIES, Json, Lie

__all__ = ["LIES", "UNKNOWABLE", "Json", "Lie"]

UNKNOWABLE = {
    "number_samples_and_output_scaled": "a number within physical limits, told alike everywhere",
    "one_reading_and_output_changed": "a reading without samples, within physical limits",
    "samples_reordered_with_output": "the order in which samples were taken",
    "label_value_with_output": "what a label says, where no bound asks for it",
    "version_of_torch": "a version of the right form",
    "version_of_kernel": "a version of the right form",
    "version_of_os": "the name of the system",
    "load_changed": "how busy the machine was",
    "memory_of_host": "a fact of the machine that its class does not have",
    "node_alias_of_another": "which node it was",
    "campaign_named": "which campaign it belongs to",
    "text_printed": "text that a step printed and nothing is read from",
    "time_shifted_later": "when it was, as long as its commit was there and now has not come",
    "step_took_a_little_longer": "a duration, where the time was free",
    "document_and_output_removed": "that a block has written a document of which nothing is left",
    "printed_json_removed": "output that is no longer there: the record alone speaks then",
}
