//! Which functions are needed, and where they are once a library is open.
//!
//! | | |
//! | --- | --- |
//! | required | in every CANN from 8.1 to 9.2; without one of them the library is not taken |
//! | optional | of some releases only, about to be withdrawn, or something we can do without |

use libloading::os::unix::Library;

use super::functions;

/// Makes a struct with a pointer for each function, and the search that fills it.
macro_rules! symbol_table {
    (
        $(#[$doc:meta])*
        $table:ident { required: [$($required:ident),* $(,)?], optional: [$($optional:ident),* $(,)?] }
    ) => {
        $(#[$doc])*
        #[allow(dead_code, reason = "the whole interface is here; the layer above takes what it needs")]
        #[allow(non_snake_case, reason = "the functions' own names")]
        pub(crate) struct $table {
            $(pub(crate) $required: functions::$required,)*
            $(pub(crate) $optional: Option<functions::$optional>,)*
        }

        impl $table {
            /// Looks for each function in the libraries, in order.
            ///
            /// # Errors
            /// The name of the first required one that none of them has.
            pub(crate) fn resolve(libraries: &[Library]) -> Result<Self, &'static str> {
                Ok(Self {
                    $($required: find!(libraries, $required).ok_or(stringify!($required))?,)*
                    $($optional: find!(libraries, $optional),)*
                })
            }

            /// The names of the required functions and of the optional ones.
            #[cfg(test)]
            pub(super) const NAMES: (&[&str], &[&str]) =
                (&[$(stringify!($required)),*], &[$(stringify!($optional)),*]);
        }
    };
}

/// The address of a function in the first of the libraries that has it, as its type.
macro_rules! find {
    ($libraries:expr, $function:ident) => {
        $libraries.iter().find_map(|library| {
            const NAME: &str = concat!(stringify!($function), "\0");
            #[expect(unsafe_code, reason = "the type of a symbol is not in the library")]
            // SAFETY: `Library::get` asks that the type is that of the symbol. The type is generated
            // from the declaration of the function of this name, which tests compare with CANN's; a
            // null address is `None` of the same type.
            let symbol = unsafe { library.get::<Option<$crate::sys::functions::$function>>(NAME.as_bytes()) };
            symbol.ok().and_then(|symbol| *symbol)
        })
    };
}
pub(crate) use find;

symbol_table! {
    /// The functions of ACL.
    Symbols {
        required: [
            aclInit,
            aclFinalize,
            aclrtGetVersion,
            aclrtGetSocName,
            aclGetRecentErrMsg,
            aclrtGetDeviceCount,
            aclrtSetDevice,
            aclrtGetDevice,
            aclrtResetDevice,
            aclrtSynchronizeDevice,
            aclrtSynchronizeDeviceWithTimeout,
            aclrtGetRunMode,
            aclrtCreateContext,
            aclrtDestroyContext,
            aclrtSetCurrentContext,
            aclrtGetCurrentContext,
            aclrtCreateStreamWithConfig,
            aclrtDestroyStream,
            aclrtSynchronizeStream,
            aclrtSynchronizeStreamWithTimeout,
            aclrtStreamQuery,
            aclrtSetStreamFailureMode,
            aclrtStreamWaitEvent,
            aclrtCreateEventWithFlag,
            aclrtDestroyEvent,
            aclrtRecordEvent,
            aclrtResetEvent,
            aclrtQueryEventStatus,
            aclrtSynchronizeEvent,
            aclrtSynchronizeEventWithTimeout,
            aclrtEventElapsedTime,
            aclrtMalloc,
            aclrtFree,
            aclrtMallocHost,
            aclrtFreeHost,
            aclrtMemcpy,
            aclrtMemcpyAsync,
            aclrtMemset,
            aclrtMemsetAsync,
            aclrtGetMemInfo,
            aclmdlQuerySizeFromMem,
            aclmdlCreateConfigHandle,
            aclmdlDestroyConfigHandle,
            aclmdlSetConfigOpt,
            aclmdlLoadWithConfig,
            aclmdlLoadFromMem,
            aclmdlLoadFromMemWithMem,
            aclmdlUnload,
            aclmdlCreateDesc,
            aclmdlDestroyDesc,
            aclmdlGetDesc,
            aclmdlGetNumInputs,
            aclmdlGetNumOutputs,
            aclmdlGetInputSizeByIndex,
            aclmdlGetOutputSizeByIndex,
            aclmdlGetInputNameByIndex,
            aclmdlGetOutputNameByIndex,
            aclmdlGetInputIndexByName,
            aclmdlGetOutputIndexByName,
            aclmdlGetInputDims,
            aclmdlGetOutputDims,
            aclmdlGetInputDataType,
            aclmdlGetOutputDataType,
            aclmdlGetInputFormat,
            aclmdlGetOutputFormat,
            aclmdlCreateDataset,
            aclmdlDestroyDataset,
            aclmdlAddDatasetBuffer,
            aclmdlGetDatasetNumBuffers,
            aclmdlGetDatasetBuffer,
            aclCreateDataBuffer,
            aclDestroyDataBuffer,
            aclUpdateDataBuffer,
            aclGetDataBufferAddr,
            aclGetDataBufferSizeV2,
            aclmdlExecute,
            aclmdlExecuteAsync,
            aclDataTypeSize,
        ],
        optional: [
            // Deprecated from 8.5 on in favour of the two below it, which 8.1 does not have.
            aclsysGetCANNVersion,
            aclsysGetVersionStr,
            aclsysGetVersionNum,
            // Not in 8.1.
            aclrtGetDeviceInfo,
            aclrtGetDeviceCapability,
            aclrtGetStreamAvailableNum,
            // Only to say more about a failure, or to recover from one.
            aclrtQueryDeviceStatus,
            aclrtDeviceTaskAbort,
            aclrtDestroyStreamForce,
            aclrtStreamAbort,
            aclrtPeekAtLastError,
            aclrtGetLastError,
            aclrtSetExceptionInfoCallback,
            aclrtGetTaskIdFromExceptionInfo,
            aclrtGetStreamIdFromExceptionInfo,
            aclrtGetErrorCodeFromExceptionInfo,
            aclrtGetDeviceIdFromExceptionInfo,
        ]
    }
}

symbol_table! {
    /// The functions of HCCL, for several devices together.
    HcclSymbols {
        required: [
            HcclGetRootInfo,
            HcclCommInitRootInfo,
            HcclAllReduce,
            HcclAllGather,
            HcclCommDestroy,
            HcclGetCommAsyncError,
            HcclGetErrorString,
            HcclGetRankSize,
            HcclGetRankId,
        ],
        optional: [HcclCommInitRootInfoConfig]
    }
}
