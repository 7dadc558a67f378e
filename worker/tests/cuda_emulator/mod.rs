//! Builds the emulator of CUDA blocks with the machine's C++ compiler, loads it and starts kernels on it.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use forebay_worker::kernels::cuda::launch::Launch;
use libloading::Library;

pub mod memory;
pub mod numbers;

/// One parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    Pointer(u64),
    F32(f32),
    U32(u32),
}

type Emulate = unsafe extern "C" fn(*const c_char, *const c_uint, *const c_uint, c_uint, *mut *mut c_void) -> c_int;

pub struct Emulator {
    library: Library,
}

impl Emulator {
    /// `None` where there is no compiler, after saying so.
    pub fn load() -> Option<Self> {
        let path = build()?;
        // SAFETY: its initialisers register kernels and touch nothing else.
        Some(Self { library: unsafe { Library::new(path) }.expect("what the compiler made is a library") })
    }

    /// Runs a kernel. An error is `emulate`'s code and reason.
    ///
    /// # Safety
    /// `args` are what the kernel wants, and pointers lead to what it reads and writes.
    pub unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), (i32, String)> {
        let kernel = CString::new(launch.kernel).expect("names have no zeroes");
        let mut pointers: Vec<*mut c_void> = args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::F32(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::U32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        let (grid, block) = (launch.grid.as_ptr(), launch.block.as_ptr());
        // SAFETY: the names have these types in emulator.cpp; the caller answers for the arguments.
        unsafe {
            let emulate = self.library.get::<Emulate>(b"emulate").expect("is exported");
            match emulate(kernel.as_ptr(), grid, block, launch.shared_bytes, pointers.as_mut_ptr()) {
                0 => Ok(()),
                code => {
                    let reason = self.library.get::<unsafe extern "C" fn() -> *const c_char>(b"emulate_error");
                    let reason = reason.expect("is exported")();
                    Err((code, CStr::from_ptr(reason).to_string_lossy().into_owned()))
                }
            }
        }
    }

    /// Runs a kernel twice, threads first to last and last to first, each time on an output and parameters that `prepare` makes.
    /// Returns the output, which must be the same in every bit and end where it should.
    pub fn both_ways(&self, launch: &Launch, prepare: impl Fn() -> (memory::Floats, Vec<Arg>)) -> Vec<f32> {
        let run = |backwards: bool| {
            let (out, args) = prepare();
            // SAFETY: the name has this type in emulator.cpp.
            unsafe {
                let order = self.library.get::<unsafe extern "C" fn(c_int)>(b"emulate_backwards");
                order.expect("is exported")(c_int::from(backwards));
            }
            // SAFETY: the tests give each kernel what its twin gets.
            let outcome = unsafe { self.launch(launch, &args) };
            assert_eq!(outcome, Ok(()), "{launch:?}");
            out.checked(launch.kernel)
        };
        let (forwards, backwards) = (run(false), run(true));
        let same = forwards.iter().zip(&backwards).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "the order of threads shows in the answer: {launch:?}");
        forwards
    }
}

/// Further flags for the compiler, such as `-fsanitize=address,undefined`.
fn flags() -> String {
    std::env::var("FOREBAY_EMULATOR_FLAGS").unwrap_or_default()
}

pub fn sanitized() -> bool {
    flags().contains("address")
}

/// The newest change of the emulator or a kernel.
fn newest(folders: &[PathBuf]) -> SystemTime {
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("sources are there"));
    let modified = |file: std::io::Result<fs::DirEntry>| file.and_then(|file| file.metadata()?.modified());
    files.map(|file| modified(file).expect("a file has a date")).max().expect("there are sources")
}

/// Path of the library, compiled if it is missing or older than its sources.
fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("tests/cuda_emulator");
    let flags = flags();
    let name: String = flags.chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("libemulator{name}.so"));
    // Tests are processes of their own that start at once: one compiles, the others wait for it.
    let lock = File::create(folder.join(format!("libemulator{name}.lock"))).expect("the target folder is writable");
    lock.lock().expect("locks work in the target folder");
    let sources = newest(&[source.clone(), root.join("src/kernels/cuda")]);
    if fs::metadata(&library).and_then(|file| file.modified()).is_ok_and(|built| built > sources) {
        return Some(library);
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let unfinished = folder.join(format!("libemulator{name}.unfinished"));
    let mut command = Command::new(&compiler);
    // The library never leaves this machine. Products and sums are rounded apart unless a kernel asks for fmaf.
    command.args(["-std=c++17", "-O2", "-g", "-shared", "-fPIC", "-march=native", "-ffp-contract=off"]);
    command.args(["-fno-strict-aliasing"]).args(flags.split_whitespace());
    command.arg(source.join("emulator.cpp")).arg("-o").arg(&unfinished);
    match command.status() {
        Err(error) => {
            eprintln!("skipped: CUDA kernels are emulated with a C++ compiler, and {compiler} does not start: {error}");
            return None;
        }
        Ok(status) => assert!(status.success(), "{compiler} rejects the emulator"),
    }
    fs::rename(&unfinished, &library).expect("both are in one folder");
    Some(library)
}
