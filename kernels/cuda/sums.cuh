// Sums over rows in a fixed order, for the gradients of biases and peepholes: never by atomics, so the same bits each time.
#pragma once
#include "numbers.cuh"

namespace fastrnn {

// sums[chunk][column] of in[row][column], each over its share of the rows; a thread a column, a row of blocks a chunk.
template <class T> DEVICE void sum_rows(const SumArguments<T, SumOf<T>>& a) {
    const int column = int(blockIdx.x * blockDim.x + threadIdx.x), chunk = int(blockIdx.y);
    if (column >= a.columns) return;
    const i64 begin = a.rows * chunk / gridDim.y, end = a.rows * (chunk + 1) / gridDim.y;
    SumOf<T> sum = 0;
    for (i64 row = begin; row < end; row++) sum += read(a.in + row * a.columns + column);
    a.sums[i64(chunk) * a.columns + column] = sum;
}

}  // namespace fastrnn
