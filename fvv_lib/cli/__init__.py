"""The command line: one module for each verb, with its flags, one call, and its output."""

VERBS = {  # in the order in which a user needs them
    "doctor": "check the installation, and say what to fix",
    "prepare": "write annotations of any known format as annotation files of this library",
    "check": "read a data set as training does, and list its problems",
    "memory": "predict the memory of a training run, and what to change if it does not fit",
    "finetune": "fine-tune a model on videos",
    "evaluate": "ask a model all questions of test sets, and count the right answers",
    "chat": "ask a model about videos and images",
    "convert": "convert a model to Hugging Face's layout, or to Apple's",
}
