"""An Ascend host made of rules: emulated ``atc``, ``npu-smi`` and pyACL."""
