# CUDA, for BATON_CUDA alone. `./dev build cuda` finds or fetches the toolkit and names its compiler by CMAKE_CUDA_COMPILER.

# Named below: CMake 3.25 knows neither sm_90a, whose instructions (wgmma, TMA) Hopper's kernels need, nor C++20 in CUDA.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
find_package(CUDAToolkit 13.0 REQUIRED)
string(REPLACE ";" "," host_warnings "${baton_warnings}")
set(cuda_options -gencode=arch=compute_90a,code=sm_90a -lineinfo --expt-relaxed-constexpr -Werror=all-warnings
                 -Xcompiler=${host_warnings})
target_compile_options(baton_options INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_options}>")
# fmt 9 takes nvcc for a compiler of C++11, and then its own headers contradict each other.
target_compile_definitions(baton_options INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)

# Everything that only the CUDA build has: what `./dev build cuda` builds.
add_custom_target(cuda_programs)
