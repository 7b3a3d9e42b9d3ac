// Golden hashes: FNV-1a over the bytes that a driver wrote from inputs made of integers, so that every machine starts
// from the same bits. No matrix product, no exp: everything hashed is promised bit for bit.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "drivers/array.h"

namespace kitae::golden {

// splitmix64; the numbers are k / 2^20 with |k| <= 2^23, exact in float32 and rounded once to the 16-bit types; float64
// gets 24 more bits.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  template <class C>
  C number() {
    const auto high = static_cast<double>(static_cast<int64_t>(bits() >> 40) - (int64_t{1} << 23)) * 0x1p-20;
    if (sizeof(C) == sizeof(float)) return static_cast<C>(high);
    return static_cast<C>(high + static_cast<double>(bits() >> 40) * 0x1p-44);
  }
  template <class T>
  std::vector<T> array(int64_t size) {
    std::vector<T> values(static_cast<size_t>(size));
    for (T& value : values) value = FromFloat<T>::convert(number<Compute<T>>());
    return values;
  }

 private:
  uint64_t state_;
};

class Hash {
 public:
  void bytes(const void* data, size_t count) {
    const auto* byte = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < count; ++i) value_ = (value_ ^ byte[i]) * 0x100000001b3u;
  }
  template <class T>
  void number(T value) {
    bytes(&value, sizeof(value));
  }
  template <class T>
  void array(const std::vector<T>& values) {
    bytes(values.data(), values.size() * sizeof(T));
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::float16;
  static constexpr const char* name = "float16";
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bfloat16;
  static constexpr const char* name = "bfloat16";
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::float32;
  static constexpr const char* name = "float32";
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::float64;
  static constexpr const char* name = "float64";
};

// A C-contiguous driver argument over a vector, with the shape it needs to keep alive.
template <class T>
class Contiguous {
 public:
  Contiguous(std::vector<T>& values, std::vector<int64_t> shape) : shape_(std::move(shape)), strides_(shape_.size()) {
    int64_t size = 1;
    for (size_t axis = shape_.size(); axis-- > 0; size *= shape_[axis])
      strides_[axis] = size * static_cast<int64_t>(sizeof(T));
    array_.data = values.data();
    array_.dtype = DTypeOf<T>::value;
    array_.ndim = static_cast<int>(shape_.size());
    array_.size = size;
    array_.shape = shape_.data();
    array_.strides = strides_.data();
    array_.contiguous = true;
  }
  explicit Contiguous(std::vector<T>& values) : Contiguous(values, {static_cast<int64_t>(values.size())}) {}
  Contiguous(const Contiguous&) = delete;
  Contiguous& operator=(const Contiguous&) = delete;
  operator const Array&() const { return array_; }

 private:
  std::vector<int64_t> shape_, strides_;
  Array array_;
};

struct Row {
  std::string name;
  std::function<uint64_t()> hash;
};

// One function a file, appending its rows; golden_test.cpp calls them all.
void add_number_rows(std::vector<Row>& rows);
void add_normalization_rows(std::vector<Row>& rows);
void add_layer_normalization_rows(std::vector<Row>& rows);
void add_dropout_rows(std::vector<Row>& rows);
void add_convolution_rows(std::vector<Row>& rows);
void add_optimizer_rows(std::vector<Row>& rows);

}  // namespace kitae::golden
