/*
 * A small ACL for tests: host memory plays the device, work on a stream is done when the stream is
 * waited for, and every call is written down.
 *
 *   STUB_DIR/calls   a line for each call: function, context that is current ("-" for none), details
 *   STUB_DIR/fail    lines "function n code": its n-th call from now fails with that code
 *
 * Functions that are not defined here are added by tests/stub/mod.rs: they only write themselves down.
 */
#include "acl_min.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef DEVICES
#define DEVICES 2
#endif

struct context {
    int number;
    int device;
    int destroyed;
};

/* Before every piece of memory: whose it is. */
struct block {
    struct context *context;
    size_t size;
    char pad[48];
};

enum work { COPY, EXECUTE };

struct task {
    enum work work;
    void *to;
    const void *from;
    size_t bytes;
    struct task *next;
};

struct stream {
    struct context *context;
    struct task *first, **last;
};

struct aclDataBuffer { void *data; size_t size; };
struct aclmdlDataset { aclDataBuffer *buffers[16]; size_t count; };
struct aclmdlDesc { uint32_t id; };
struct aclmdlConfigHandle { size_t type, optimize, work, weight, bytes; const void *model; };

static _Thread_local struct context *current;
static _Thread_local char message[256];
static int contexts;

static void note(const char *format, ...) {
    FILE *file = fopen(STUB_DIR "/calls", "a");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fputc('\n', file);
    fclose(file);
}

/* The code that this call is to fail with. Counts the lines of the function down. */
static int scripted(const char *function) {
    char line[256], name[128], rest[4096] = "";
    long number, code, result = 0;
    FILE *file = fopen(STUB_DIR "/fail", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%127s %ld %ld", name, &number, &code) != 3) continue;
        if (strcmp(name, function) == 0 && --number == 0) {
            result = code;
            continue;
        }
        snprintf(rest + strlen(rest), sizeof rest - strlen(rest), "%s %ld %ld\n", name, number, code);
    }
    fclose(file);
    file = fopen(STUB_DIR "/fail", "w");
    fputs(rest, file);
    fclose(file);
    return (int)result;
}

static int enter(const char *function, const char *details) {
    /* Every call replaces what was said about the one before. */
    message[0] = 0;
    if (current) note("%s %d %s", function, current->number, details);
    else note("%s - %s", function, details);
    int code = scripted(function);
    if (code) snprintf(message, sizeof message, "\n%s was told to fail\n", function);
    return code;
}

#define ENTER(function, details) \
    do { int code_ = enter(#function, details); if (code_) return code_; } while (0)
#define ENTER_POINTER(function) \
    do { if (enter(#function, "")) return NULL; } while (0)
#define IN_CONTEXT(function, details) \
    do { ENTER(function, details); if (!current || current->destroyed) return 107002; } while (0)

aclError aclInit(const char *configPath) {
    ENTER(aclInit, configPath ? configPath : "null");
    return 0;
}

const char *aclGetRecentErrMsg(void) {
    static _Thread_local char copy[256];
    memcpy(copy, message, sizeof copy);
    message[0] = 0;
    return copy[0] ? copy : NULL;
}

aclError aclrtGetVersion(int32_t *majorVersion, int32_t *minorVersion, int32_t *patchVersion) {
    *majorVersion = 1; *minorVersion = 15; *patchVersion = 0;
    return 0;
}

#ifdef CANN_VERSION
aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion *version) {
    if (name != ACL_PKG_NAME_CANN) return 100003;
    strcpy(version->version, CANN_VERSION);
    return 0;
}
#endif

#ifdef EXTRA
EXTRA
#endif

const char *aclrtGetSocName(void) { return "Ascend910B3"; }

aclError aclrtGetDeviceCount(uint32_t *count) {
    ENTER(aclrtGetDeviceCount, "");
    *count = DEVICES;
    return 0;
}

#ifndef NO_CAPABILITY
aclError aclrtGetDeviceCapability(int32_t deviceId, aclrtDevFeatureType devFeatureType,
    int32_t *value) {
    IN_CONTEXT(aclrtGetDeviceCapability, "");
    *value = deviceId == 0 && devFeatureType == 1;
    return 0;
}
#endif

aclError aclrtSetDevice(int32_t deviceId) {
    static struct context defaults[DEVICES];
    ENTER(aclrtSetDevice, "");
    if (deviceId < 0 || deviceId >= DEVICES) return 107001;
    current = &defaults[deviceId];
    current->device = deviceId;
    return 0;
}

aclError aclrtCreateContext(aclrtContext *context, int32_t deviceId) {
    ENTER(aclrtCreateContext, "");
    struct context *created = calloc(1, sizeof *created);
    created->number = ++contexts;
    created->device = deviceId;
    *context = current = created;
    return 0;
}

aclError aclrtDestroyContext(aclrtContext context) {
    struct context *destroyed = context;
    char details[32];
    snprintf(details, sizeof details, "of %d", destroyed->number);
    ENTER(aclrtDestroyContext, details);
    destroyed->destroyed = 1;
    if (current == destroyed) current = NULL;
    return 0;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    struct context *wanted = context;
    ENTER(aclrtSetCurrentContext, "");
    if (wanted->destroyed) return 107002;
    current = wanted;
    return 0;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
    ENTER(aclrtGetCurrentContext, "");
    if (!current) return 107002;
    *context = current;
    return 0;
}

static aclError take(void **memory, size_t size) {
    if (!size) return 107000;
    struct block *block = calloc(1, sizeof *block + size);
    memset(block + 1, 0xAB, size);
    block->context = current;
    block->size = size;
    *memory = block + 1;
    return 0;
}

static aclError give_back(const char *function, void *memory) {
    struct block *block = (struct block *)memory - 1;
    if (block->context != current) note("WRONG CONTEXT %s", function);
    free(block);
    return 0;
}

aclError aclrtMalloc(void **devPtr, size_t size, aclrtMemMallocPolicy policy) {
    char details[64];
    snprintf(details, sizeof details, "%zu policy %d", size, (int)policy);
    IN_CONTEXT(aclrtMalloc, details);
    return take(devPtr, size);
}

aclError aclrtFree(void *devPtr) {
    IN_CONTEXT(aclrtFree, "");
    return give_back("aclrtFree", devPtr);
}

aclError aclrtMallocHost(void **hostPtr, size_t size) {
    IN_CONTEXT(aclrtMallocHost, "");
    return take(hostPtr, size);
}

aclError aclrtFreeHost(void *hostPtr) {
    IN_CONTEXT(aclrtFreeHost, "");
    return give_back("aclrtFreeHost", hostPtr);
}

aclError aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count,
    aclrtMemcpyKind kind) {
    char details[64];
    snprintf(details, sizeof details, "%zu kind %d", count, (int)kind);
    IN_CONTEXT(aclrtMemcpy, details);
    if (!count || count > destMax) return 107000;
    memcpy(dst, src, count);
    return 0;
}

aclError aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count) {
    IN_CONTEXT(aclrtMemset, "");
    if (!count || count > maxCount) return 107000;
    memset(devPtr, value, count);
    return 0;
}

aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free, size_t *total) {
    IN_CONTEXT(aclrtGetMemInfo, "");
    /* Device 1 has no HBM. */
    int is_there = (attr == ACL_HBM_MEM) == (current->device == 0);
    *free = is_there ? 1000 : 0;
    *total = is_there ? 4000 : 0;
    return 0;
}

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag) {
    char details[64];
    snprintf(details, sizeof details, "priority %u flags %u", priority, flag);
    IN_CONTEXT(aclrtCreateStreamWithConfig, details);
    struct stream *created = calloc(1, sizeof *created);
    created->context = current;
    created->last = &created->first;
    *stream = created;
    return 0;
}

aclError aclrtDestroyStream(aclrtStream stream) {
    struct stream *destroyed = stream;
    IN_CONTEXT(aclrtDestroyStream, destroyed->first ? "BUSY" : "");
    if (destroyed->context != current) note("WRONG CONTEXT aclrtDestroyStream");
    free(destroyed);
    return 0;
}

static void enqueue(struct stream *stream, struct task task) {
    struct task *queued = malloc(sizeof *queued);
    *queued = task;
    queued->next = NULL;
    *stream->last = queued;
    stream->last = &queued->next;
}

static void drain(struct stream *stream) {
    while (stream->first) {
        struct task *task = stream->first;
        if (task->work == COPY) {
            memcpy(task->to, task->from, task->bytes);
        } else {
            const float *from = task->from;
            float *to = task->to;
            for (size_t idx = 0; idx < task->bytes / sizeof(float); idx++) to[idx] = from[idx] + 1;
        }
        stream->first = task->next;
        free(task);
    }
    stream->last = &stream->first;
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
    char details[32];
    snprintf(details, sizeof details, "%d", timeout);
    IN_CONTEXT(aclrtSynchronizeStreamWithTimeout, details);
    if (((struct stream *)stream)->context != current) note("WRONG CONTEXT synchronize");
    drain(stream);
    return 0;
}

aclError aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count,
    aclrtMemcpyKind kind, aclrtStream stream) {
    (void)kind;
    IN_CONTEXT(aclrtMemcpyAsync, "");
    if (!count || count > destMax) return 107000;
    enqueue(stream, (struct task){ COPY, dst, src, count, NULL });
    return 0;
}

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) {
    char details[32];
    snprintf(details, sizeof details, "flags %u", flag);
    IN_CONTEXT(aclrtCreateEventWithFlag, details);
    *event = malloc(1);
    return 0;
}

aclError aclrtDestroyEvent(aclrtEvent event) {
    IN_CONTEXT(aclrtDestroyEvent, "");
    free(event);
    return 0;
}

aclError aclrtEventElapsedTime(float *ms, aclrtEvent startEvent, aclrtEvent endEvent) {
    IN_CONTEXT(aclrtEventElapsedTime, "");
    *ms = startEvent == endEvent ? -1.0f : 2.5f;
    return 0;
}

aclError aclmdlQuerySizeFromMem(const void *model, size_t modelSize, size_t *workSize,
    size_t *weightSize) {
    (void)model;
    IN_CONTEXT(aclmdlQuerySizeFromMem, "");
    *workSize = 100 * modelSize;
    *weightSize = 10;
    return 0;
}

aclmdlConfigHandle *aclmdlCreateConfigHandle(void) {
    ENTER_POINTER(aclmdlCreateConfigHandle);
    return calloc(1, sizeof(aclmdlConfigHandle));
}

aclError aclmdlDestroyConfigHandle(aclmdlConfigHandle *handle) {
    ENTER(aclmdlDestroyConfigHandle, "");
    free(handle);
    return 0;
}

aclError aclmdlSetConfigOpt(aclmdlConfigHandle *handle, aclmdlConfigAttr attr,
    const void *attrValue, size_t valueSize) {
    const void *value = NULL;
    ENTER(aclmdlSetConfigOpt, "");
    if (valueSize != sizeof value) return 100000;
    memcpy(&value, attrValue, sizeof value);
    if (!value) return 100000;
    switch (attr) {
    case ACL_MDL_LOAD_TYPE_SIZET: handle->type = (size_t)value; break;
    case ACL_MDL_MEM_ADDR_PTR: handle->model = value; break;
    case ACL_MDL_MEM_SIZET: handle->bytes = (size_t)value; break;
    case ACL_MDL_WORKSPACE_SIZET: handle->work = (size_t)value; break;
    case ACL_MDL_WEIGHT_SIZET: handle->weight = (size_t)value; break;
    case ACL_MDL_WORKSPACE_ADDR_PTR: break;
    case ACL_MDL_WEIGHT_ADDR_PTR: break;
    case ACL_MDL_WORKSPACE_MEM_OPTIMIZE: handle->optimize = (size_t)value; break;
    default: return 100000;
    }
    return 0;
}

aclError aclmdlLoadWithConfig(const aclmdlConfigHandle *handle, uint32_t *modelId) {
    static uint32_t models = 0;
    char details[128];
    snprintf(details, sizeof details, "type %zu work %zu weight %zu optimize %zu om %.*s",
        handle->type, handle->work, handle->weight, handle->optimize, (int)handle->bytes,
        (const char *)handle->model);
    IN_CONTEXT(aclmdlLoadWithConfig, details);
    *modelId = ++models;
    return 0;
}

aclError aclmdlUnload(uint32_t modelId) {
    IN_CONTEXT(aclmdlUnload, "");
    return modelId ? 0 : 100011;
}

aclmdlDesc *aclmdlCreateDesc(void) {
    ENTER_POINTER(aclmdlCreateDesc);
    return calloc(1, sizeof(aclmdlDesc));
}

aclError aclmdlDestroyDesc(aclmdlDesc *modelDesc) {
    ENTER(aclmdlDestroyDesc, "");
    free(modelDesc);
    return 0;
}

aclError aclmdlGetDesc(aclmdlDesc *modelDesc, uint32_t modelId) {
    ENTER(aclmdlGetDesc, "");
    modelDesc->id = modelId;
    return 0;
}

/* Every model has one input and one output: f32 [2, 2]; the output is the input, plus 1. */
size_t aclmdlGetNumInputs(aclmdlDesc *modelDesc) { return modelDesc->id ? 1 : 0; }
size_t aclmdlGetNumOutputs(aclmdlDesc *modelDesc) { return modelDesc->id ? 1 : 0; }
size_t aclmdlGetInputSizeByIndex(aclmdlDesc *modelDesc, size_t index) {
    return modelDesc->id && index == 0 ? 16 : 0;
}
size_t aclmdlGetOutputSizeByIndex(aclmdlDesc *modelDesc, size_t index) {
    return modelDesc->id && index == 0 ? 16 : 0;
}
const char *aclmdlGetInputNameByIndex(const aclmdlDesc *modelDesc, size_t index) {
    return modelDesc->id && index == 0 ? "input_0" : "";
}
const char *aclmdlGetOutputNameByIndex(const aclmdlDesc *modelDesc, size_t index) {
    return modelDesc->id && index == 0 ? "n1_Add:0" : "";
}

static aclError dimensions(const char *name, aclmdlIODims *dims) {
    strcpy(dims->name, name);
    dims->dimCount = scripted("dimCount") ? 129 : 2;
    dims->dims[0] = dims->dims[1] = 2;
    return 0;
}

aclError aclmdlGetInputDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims) {
    ENTER(aclmdlGetInputDims, "");
    return modelDesc->id && index == 0 ? dimensions("input_0", dims) : 100000;
}

aclError aclmdlGetOutputDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims) {
    ENTER(aclmdlGetOutputDims, "");
    return modelDesc->id && index == 0 ? dimensions("n1_Add:0", dims) : 100000;
}

aclFormat aclmdlGetInputFormat(const aclmdlDesc *modelDesc, size_t index) {
    return modelDesc->id && index == 0 ? ACL_FORMAT_ND : ACL_FORMAT_UNDEFINED;
}

aclmdlDataset *aclmdlCreateDataset(void) {
    ENTER_POINTER(aclmdlCreateDataset);
    return calloc(1, sizeof(aclmdlDataset));
}

aclError aclmdlDestroyDataset(const aclmdlDataset *dataset) {
    ENTER(aclmdlDestroyDataset, "");
    free((void *)dataset);
    return 0;
}

aclError aclmdlAddDatasetBuffer(aclmdlDataset *dataset, aclDataBuffer *dataBuffer) {
    ENTER(aclmdlAddDatasetBuffer, "");
    if (dataset->count == 16) return 200000;
    dataset->buffers[dataset->count++] = dataBuffer;
    return 0;
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
    ENTER_POINTER(aclCreateDataBuffer);
    aclDataBuffer *buffer = malloc(sizeof *buffer);
    buffer->data = data;
    buffer->size = size;
    return buffer;
}

aclError aclDestroyDataBuffer(const aclDataBuffer *dataBuffer) {
    ENTER(aclDestroyDataBuffer, "");
    free((void *)dataBuffer);
    return 0;
}

aclError aclmdlExecuteAsync(uint32_t modelId, const aclmdlDataset *input, aclmdlDataset *output,
    aclrtStream stream) {
    IN_CONTEXT(aclmdlExecuteAsync, "");
    if (!modelId || input->count != 1 || output->count != 1) return 145001;
    enqueue(stream, (struct task){ EXECUTE, output->buffers[0]->data, input->buffers[0]->data,
        input->buffers[0]->size, NULL });
    return 0;
}
