"""Ascend NPUs: ATC compiles an ONNX file to .om, pyACL runs it, npu-smi names the chips."""
