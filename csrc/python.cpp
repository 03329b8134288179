// The module that Python imports; loading it registers the operators. Plain C, so that one build serves every Python.
// Its function compares layers with what they were, for sequences that are run in one call (torchconv/fuse/tape.py).
#include <cstdint>

extern "C" {
#if defined(_WIN32)
#define TORCHCONV_EXPORT __declspec(dllexport)
#else
#define TORCHCONV_EXPORT __attribute__((visibility("default")))
#endif
#include <Python.h>
}

namespace {

// Whether a dictionary's keys and values are the next ones of `entries`, by identity; a weak reference there stands for
// what it refers to, too.
bool same_entries(PyObject* dictionary, PyObject* entries, Py_ssize_t& at) {
  if (!PyDict_Check(dictionary)) return false;
  const Py_ssize_t size = PyTuple_Size(entries);
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t position = 0; PyDict_Next(dictionary, &position, &key, &value); at += 2) {
    if (at + 2 > size || PyTuple_GetItem(entries, at) != key) return false;
    PyObject* expected = PyTuple_GetItem(entries, at + 1);
    if (expected != value && !(PyWeakref_CheckRef(expected) && PyWeakref_GetObject(expected) == value)) return false;
  }
  return true;
}

// Whether the first layers are those of `given` as they were. given: functions, and weak references to modules;
// classes: of the modules, None for a function; entries: keys and values, one after the other, of the modules' own
// dictionaries and then of the dictionaries `inner`.
PyObject* as_they_were(PyObject*, PyObject* arguments) {
  PyObject *layers, *given, *classes, *inner, *entries;
  if (!PyArg_ParseTuple(arguments, "O!O!O!O!O!", &PyTuple_Type, &layers, &PyTuple_Type, &given, &PyTuple_Type, &classes,
                        &PyTuple_Type, &inner, &PyTuple_Type, &entries))
    return nullptr;
  const Py_ssize_t count = PyTuple_Size(given);
  bool same = PyTuple_Size(layers) >= count && PyTuple_Size(classes) == count;
  Py_ssize_t at = 0;
  for (Py_ssize_t i = 0; i < count && same; ++i) {
    PyObject *layer = PyTuple_GetItem(layers, i), *expected = PyTuple_GetItem(given, i);
    PyObject* type = PyTuple_GetItem(classes, i);
    if (type == Py_None) {
      same = layer == expected;
      continue;
    }
    same = PyWeakref_CheckRef(expected) && PyWeakref_GetObject(expected) == layer &&
           reinterpret_cast<PyObject*>(Py_TYPE(layer)) == type;
    if (!same) break;
    PyObject* dictionary = PyObject_GenericGetDict(layer, nullptr);
    if (!dictionary) return nullptr;
    same = same_entries(dictionary, entries, at);
    Py_DECREF(dictionary);
  }
  for (Py_ssize_t i = 0; i < PyTuple_Size(inner) && same; ++i)
    same = same_entries(PyTuple_GetItem(inner, i), entries, at);
  return PyBool_FromLong(same && at == PyTuple_Size(entries));
}

PyMethodDef functions[] = {{"as_they_were", as_they_were, METH_VARARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

}  // namespace

extern "C" TORCHCONV_EXPORT PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
