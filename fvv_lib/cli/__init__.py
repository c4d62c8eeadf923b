"""The command line: one module for each verb, with its flags, one call, and what is printed."""

VERBS = {  # in the order in which a user meets them
    "doctor": "what is installed, what works, what to do",
    "check": "read a data set as training would, and list what is wrong",
    "memory": "predict what a training run takes, and what to change where it does not fit",
    "finetune": "fine-tune a model on videos",
    "chat": "ask a model about videos and pictures",
    "convert": "write a model in Hugging Face's layout, or in Apple's",
}
