# Flags shared by every target, and the two functions that folders use to declare theirs.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(sinkscope_flags INTERFACE)
target_compile_features(sinkscope_flags INTERFACE cxx_std_20)
target_include_directories(sinkscope_flags INTERFACE "${CMAKE_SOURCE_DIR}" "${CMAKE_BINARY_DIR}/generated")
target_compile_options(sinkscope_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SINKSCOPE_WERROR}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SINKSCOPE_NATIVE}>>:-march=native>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlaps in std::string concatenation where there are none (GCC bug 105651).
  target_compile_options(sinkscope_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # In a unity build GCC takes a source file for a header, whose types must not use an anonymous namespace.
  target_compile_options(sinkscope_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)
endif()
if(SINKSCOPE_SANITIZE)
  target_compile_options(sinkscope_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(sinkscope_flags INTERFACE -fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented standard headers trip this warning; the optimised build keeps it (GCC manual, -fsanitize).
    target_compile_options(sinkscope_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()

# sinkscope_library(NAME SOURCES a.cpp ... [DEPENDS lib ...]): one folder, one static library.
# The dependencies a folder names are the only ones it may include.
function(sinkscope_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC sinkscope_flags ${ARG_DEPENDS})
endfunction()

# sinkscope_test(NAME SOURCES a.cpp ... DEPENDS lib ... [LABELS l ...] [TIMEOUT seconds] [LOCK name]): one Catch2
# program; every test case becomes a ctest; an exit status of 77 says that it was skipped. Those of one LOCK, such as
# ranks that wait for one another for seconds at most, run one at a time.
function(sinkscope_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;LOCK" "SOURCES;DEPENDS;LABELS;DEFINITIONS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE sinkscope_flags sinkscope_catch ${ARG_DEPENDS})
  target_compile_definitions(${name} PRIVATE ${ARG_DEFINITIONS})
  # A name that no longer finds its case, as one with a semicolon in it, fails; Catch2 v3 sees to that itself.
  set(extra "")
  if(Catch2_VERSION VERSION_LESS 3)
    set(extra EXTRA_ARGS -w NoTests)
  endif()
  set(lock "")
  if(ARG_LOCK)
    set(lock RESOURCE_LOCK "${ARG_LOCK}")
  endif()
  catch_discover_tests(${name} TEST_PREFIX "${name}: " ${extra}
    # Waiting threads sleep: tests that run side by side would spin each other's time away.
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77 ENVIRONMENT "OMP_WAIT_POLICY=passive" LABELS "${ARG_LABELS}"
      ${lock})
endfunction()

if(SINKSCOPE_CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  # Named one by one below: CMake 3.25 knows neither 90a nor nvcc's C++20.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
endif()

# sinkscope_cuda_sources(TARGET a.cu ... [ARCHITECTURES 90a ...]): adds sources that need the CUDA toolkit to a library, for
# all architectures unless some are named; those are then the library's only ones.
function(sinkscope_cuda_sources target)
  cmake_parse_arguments(ARG "" "" "ARCHITECTURES" ${ARGN})
  if(NOT ARG_ARCHITECTURES)
    set(ARG_ARCHITECTURES ${SINKSCOPE_CUDA_ARCHITECTURES})
  endif()
  target_sources(${target} PRIVATE ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${target} PUBLIC CUDA::cudart CUDA::cublasLt)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--expt-extended-lambda;-lineinfo;-Xcompiler=-Wall,-Wextra>"
    "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${SINKSCOPE_WERROR}>>:-Werror=all-warnings;-Xcompiler=-Werror>")
  foreach(arch ${ARG_ARCHITECTURES})
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_${arch},code=sm_${arch}>")
  endforeach()
endfunction()
