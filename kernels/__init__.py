"""Kernels of fastrnn, one folder a device. Installed as ``fastrnn.kernels``, never as a global package."""

if __name__ != "fastrnn.kernels":
    raise ImportError("kernels is a part of fastrnn: import fastrnn.kernels")
