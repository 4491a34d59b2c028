"""Ways to falsify a record, by name, and which of them no gate can know of."""

from tests.lies import aboutmachines, aboutnumbers, aboutruns, aboutsteps  # noqa: F401 - each lists its own
from tests.lies.told import LIES, Json, Lie

__all__ = ["LIES", "UNKNOWABLE", "Json", "Lie"]

# With the words in which `kb/reference/how-numbers-are-taken.md` says so.
UNKNOWABLE = {
    "number_samples_and_output_scaled": "a number, if it is physically possible",
    "one_reading_and_output_changed": "a number, if it is physically possible",
    "rate_that_another_number_of_its_step_contradicts": "two numbers agree where a probe computes one from the other",
    "samples_reordered_with_output": "the order of samples",
    "label_value_with_output": "the value of a label that no bound names",
    "document_and_output_removed": "whether a document was written, if neither it nor the output is left",
    "details_changed_where_output_was_cut": "what a document says beside its numbers, if the output was cut",
    "passed_for_an_invented_reason_where_output_was_cut": "why a step passed, if the output was cut",
    "effective_changed_with_output": "or says the same",
    "version_of_torch": "a version of the right form",
    "version_of_kernel": "the kernel",
    "version_of_os": "the name of the system",
    "memory_of_host": "the memory and the load of a host",
    "processor_of_a_gpu_node": "the processor of a host with GPUs",
    "load_changed": "the memory and the load of a host",
    "node_alias_of_another": "which node of the class it was",
    "campaign_named": "which campaign it belongs to",
    "time_shifted_later": "when a run was, after its commit was made and before now",
    "step_took_a_little_longer": "how long a step took within the free time",
    "text_printed": "text that a step printed and that no number or verdict is read from",
    "printed_json_removed": "or output that was cut",
}
