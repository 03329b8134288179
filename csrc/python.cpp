// The module that Python imports; loading it registers the operators. Plain C, so that one build serves every Python.
// Its two functions look at memory, for layers that keep what they made of tensors (torchconv/nn/_prepared.py).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" {
#if defined(_WIN32)
#define TORCHCONV_EXPORT __declspec(dllexport)
#else
#define TORCHCONV_EXPORT __attribute__((visibility("default")))
#endif
#include <Python.h>
}

namespace {

// Four bytes, or fewer at the end, of the memory of a tensor, and what they held.
struct Sample {
  const char* at;
  uint32_t size, bits;
};

uint32_t bits_at(const char* at, uint32_t size) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, size);
  return bits;
}

constexpr int64_t most_samples = 16;  // of a span

// bytes of (address, size above 0) in int64 -> bytes of Samples, spread evenly over each span, its ends included.
PyObject* sampled(PyObject*, PyObject* spans) {
  char* bytes = nullptr;
  Py_ssize_t length = 0;
  if (PyBytes_AsStringAndSize(spans, &bytes, &length) < 0) return nullptr;
  std::vector<Sample> samples;
  for (Py_ssize_t i = 0; i + 16 <= length; i += 16) {
    int64_t span[2];
    std::memcpy(span, bytes + i, sizeof span);
    const int64_t size = std::min<int64_t>(span[1], 4), count = std::clamp<int64_t>(span[1] / 4, 1, most_samples);
    for (int64_t s = 0; s < count; ++s) {
      const char* at = reinterpret_cast<const char*>(span[0]) + (span[1] - size) * s / std::max<int64_t>(count - 1, 1);
      samples.push_back({at, static_cast<uint32_t>(size), bits_at(at, static_cast<uint32_t>(size))});
    }
  }
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(samples.data()),
                                   static_cast<Py_ssize_t>(samples.size() * sizeof(Sample)));
}

// Whether memory holds what it held when the samples were taken. It has to be there still.
PyObject* unchanged(PyObject*, PyObject* samples) {
  char* bytes = nullptr;
  Py_ssize_t length = 0;
  if (PyBytes_AsStringAndSize(samples, &bytes, &length) < 0) return nullptr;
  bool same = true;
  for (Py_ssize_t i = 0; i + static_cast<Py_ssize_t>(sizeof(Sample)) <= length && same; i += sizeof(Sample)) {
    Sample s;
    std::memcpy(&s, bytes + i, sizeof s);
    same = bits_at(s.at, s.size) == s.bits;
  }
  return PyBool_FromLong(same);
}

PyMethodDef functions[] = {
    {"sampled", sampled, METH_O, nullptr}, {"unchanged", unchanged, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};

}  // namespace

extern "C" TORCHCONV_EXPORT PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
